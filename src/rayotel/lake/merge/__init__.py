"""Several parts of one hour become one."""
