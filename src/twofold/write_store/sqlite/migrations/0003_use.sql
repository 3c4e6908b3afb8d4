-- What the log is used for. `place` is where the log is that a copy follows, or to which this log was moved. `settled` is the
-- position at which a copy has the commands and the rows too.
alter table logs add column use text not null default 'log' check (use in ('log', 'copy', 'moved'));
alter table logs add column place text not null default '';
alter table logs add column settled integer;
