//! What went wrong in other poolers, and where it is prevented here.
//!
//! | what went wrong | what prevents it here |
//! |---|---|
//! | A server was released after the first of several pipelined answers | The reply queue in `session`: only empty, idle and without a batch does a connection go |
//! | A Bind was routed by the statement before it | Each name leads to its own statement; a batch is judged by all its statements before its first byte is sent |
//! | COPY data sent after the COPY had failed reached another client | Outside copy-in mode COPY messages are dropped by the session |
//! | A Sync sent during COPY FROM STDIN was counted | CopyInResponse takes the Syncs behind it out of the queue |
//! | A cancel request hit another client's query | A request aims at a connection under the client's lock; while one is under way the connection is not given out |
//! | A client vanished and its unread rows went to the next one | A lease ends with what is owed; the connection is cancelled, drained, rolled back and discarded before reuse, or closed |
//! | A restart by socket takeover left the clients of the old process to a timeout | Clients go over one by one, each at rest, with all that they have; `server/succession.rs` |
//! | A new process that could not start took the old one with it | It is asked whether it can serve before anything is given up, and may die until the end |
//! | Settings leaked to the next client | Every connection knows its settings; the next client's difference is put ahead of its first request |
//! | `SET ROLE` was restored after the request had run | When the identity changes, the request waits until the server has confirmed it |
//! | A failed Parse was believed to exist | Each change waits in the reply queue with its request and is undone if that never ran |
//! | Statements of other clients were found by name | Server-side names are made from a keyed hash; client names never reach a server in transaction mode |
//! | Plaintext glued to SSLRequest was taken for encrypted | The buffer must be empty when TLS begins, on both sides |
//! | Two texts with one hash: a write taken for a read | Fingerprints are keyed 128-bit SipHash with a secret per process |
//! | A read in a view, an operator or a cast wrote | The catalog snapshot judges what names stand for; what it does not know is the primary's |
//! | ORDER BY, DISTINCT or UNION ran somebody's comparison function, a WHERE somebody's cast to boolean | Operator classes and conversions are judged like functions, though nothing names them |
//! | A replica refused a statement, and the application saw the error | The request is kept until its answer is known to be none; it runs again elsewhere, once for each text |
//! | Lag measured by `replay_lag` or the last replayed transaction | Samples of our own: the primary's insert position with the instant before it was asked for |
//! | An insert position behind a page header was waited for in vain | It is normalised to the end of the last record |
//! | A server restarted, and its clients were disconnected, or told nothing of what became of their transaction | They stay, and are told 40001 or 08007 by what was at stake with each answer that was owed |
//! | The new primary did not answer for a moment, and the old one was taken again | A timeline that has been left is never the primary's again; `failover.rs` |
//! | A server hung, and its clients with it, until TCP gave up | What can run elsewhere does so when it counts as down; the rest ends after `monitor.dead_after` |
//! | A server's name moved, and connections stayed where they were | The monitor looks names up again, and everybody goes where it does; `abode.rs` |
//! | Clients that waited for a new primary stormed it, the last one first | They are let on in the order of arrival, each when the one before stands in the pool's queue |
