-- What payloads are packed with: some earlier payloads of their type. Two copies, each with its digest, since all that is packed
-- with a dictionary needs it. A stored payload whose first byte is 1 to 8 is packed with the dictionary of that number of its
-- type: DEFLATE (RFC 1951) follows, then the sum of all these bytes modulo 256. One whose first byte is 0 is plain after that byte.
-- All others are plain.
create table payload_dictionaries (
    log_id  integer not null,
    type_id integer not null,
    number  integer not null,
    copy    integer not null,
    version integer not null,
    content blob    not null,
    digest  blob    not null,
    primary key (log_id, type_id, number, copy)
) strict, without rowid;
