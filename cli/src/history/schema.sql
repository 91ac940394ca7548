-- One row: what this file is about, and what is no longer in it.
CREATE TABLE about (
    cluster TEXT NOT NULL, cluster_id TEXT NOT NULL, made_us INTEGER NOT NULL,
    sees_all INTEGER NOT NULL DEFAULT 1, dropped INTEGER NOT NULL DEFAULT 0,
    dropped_to_us INTEGER
) STRICT;
INSERT INTO about (cluster, cluster_id, made_us) VALUES ('', '', 0);

-- The broker's starts, each with the place to which its ended tasks have been written down.
CREATE TABLE starts (
    start_us INTEGER PRIMARY KEY, next INTEGER NOT NULL, looked_us INTEGER NOT NULL,
    told_to_us INTEGER NOT NULL
) STRICT;

-- Times of which something may be missing. `ends` is the number of tasks, where it is known.
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY, from_us INTEGER NOT NULL, to_us INTEGER NOT NULL, ends INTEGER,
    why TEXT NOT NULL
) STRICT;

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, short TEXT NOT NULL
) STRICT;
CREATE TABLE hosts (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, runtime TEXT NOT NULL, name TEXT NOT NULL,
    UNIQUE (owner, runtime, name)
) STRICT;
CREATE TABLE errors (
    id INTEGER PRIMARY KEY, error TEXT NOT NULL, fingerprint INTEGER NOT NULL,
    type TEXT NOT NULL, UNIQUE (error, fingerprint)
) STRICT;

CREATE TABLE ends (
    id INTEGER PRIMARY KEY, ended_us INTEGER NOT NULL, session INTEGER NOT NULL,
    n INTEGER NOT NULL, kind INTEGER NOT NULL, engine INTEGER, host INTEGER,
    state TEXT NOT NULL, error INTEGER, attempts INTEGER NOT NULL, held_us INTEGER NOT NULL,
    queue_us INTEGER NOT NULL, way_us INTEGER NOT NULL, began_us INTEGER NOT NULL,
    load_us INTEGER NOT NULL, run_us INTEGER NOT NULL, store_us INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL, result_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX ends_ended ON ends (ended_us);
CREATE INDEX ends_kind ON ends (kind, ended_us);
-- A task that was told twice is the same one; one that had to run again after its broker was not.
CREATE UNIQUE INDEX ends_task ON ends (session, n, ended_us);
CREATE INDEX ends_not_succeeded ON ends (state, ended_us) WHERE state <> 'succeeded';
CREATE INDEX ends_error ON ends (error, ended_us) WHERE error IS NOT NULL;

-- Outer joins, since SQLite leaves out those of which nothing is asked.
CREATE VIEW tasks AS
    SELECT
        ends.id AS id, ends.kind AS kind, sessions.short || ':' || n AS task, sessions.name AS session, n,
        kinds.owner AS owner, kinds.runtime AS runtime, kinds.name AS name, state,
        errors.error AS error, errors.type AS type, errors.fingerprint AS fingerprint, engine,
        hosts.name AS host, attempts,
        ended_us - held_us - queue_us - way_us - began_us - load_us - run_us - store_us
            AS submitted_us,
        ended_us - way_us - began_us - load_us - run_us - store_us AS assigned_us, ended_us,
        held_us, queue_us, way_us, began_us, load_us, run_us, store_us, request_bytes,
        result_bytes
    FROM ends
    LEFT JOIN sessions ON sessions.id = ends.session
    LEFT JOIN kinds ON kinds.id = ends.kind
    LEFT JOIN errors ON errors.id = ends.error
    LEFT JOIN hosts ON hosts.id = ends.host;

CREATE VIEW failures AS
    SELECT
        kinds.name AS name, kinds.owner AS owner, errors.error AS error, errors.type AS type,
        errors.fingerprint AS fingerprint, count(*) AS tasks, min(ended_us) AS first_us,
        max(ended_us) AS last_us
    FROM ends
    JOIN kinds ON kinds.id = ends.kind
    JOIN errors ON errors.id = ends.error
    WHERE ends.error IS NOT NULL
    GROUP BY ends.kind, ends.error;

CREATE VIEW by_hour AS
    SELECT
        datetime(ended_us / 3600000000 * 3600, 'unixepoch') AS hour, kinds.name AS name,
        count(*) AS tasks, sum(state NOT IN ('succeeded', 'cancelled')) AS failed,
        sum(run_us) / 1e6 AS run_s, sum(queue_us) / 1e6 AS queue_s
    FROM ends
    JOIN kinds ON kinds.id = ends.kind
    GROUP BY ended_us / 3600000000, ends.kind;
