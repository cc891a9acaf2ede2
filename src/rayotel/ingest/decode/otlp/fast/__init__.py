"""The same rows as the reference, sooner. May be deleted: decoding is slower then."""
