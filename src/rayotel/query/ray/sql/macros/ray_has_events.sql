-- about: whether Ray's events of some types are kept of a session: then its metrics are not asked
-- parameter: of_session: name of the session; null is none
-- parameter: types: list of types of events, one of which is enough
-- example: SELECT session, ray_has_events(session, ['TASK_LIFECYCLE_EVENT']) AS has_task_events FROM ray_targets
-- needs: rayevents
CREATE MACRO ray_has_events(of_session, types) AS
  coalesce(of_session, '') IN (
    SELECT e.session_name FROM rayevents AS e
    WHERE e.event_type IN types AND e.session_name IS NOT NULL
  );
