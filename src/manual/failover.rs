//! What clients notice when a server goes away, and where each part of that is kept.
//!
//! | a client | notices |
//! |---|---|
//! | outside of a transaction, or whose BEGIN no server has seen | a pause: it is held until there is a server, for `pool.hold_timeout` at most |
//! | whose read ran on a replica that died, and that has seen nothing of the answer | nothing: the read runs again |
//! | whose read has run for two seconds on a replica that serves on, and somebody ended its backend | 57P01, and its connection goes on |
//! | in a transaction on the server that died, before COMMIT | 40001: nothing of it was committed; the connection goes on |
//! | whose COMMIT, or write on its own, was not answered | 08007: whether it was committed is not known; it is never sent again |
//! | with state that only its server connection had, or in session mode | 57P01 (08007 if something may have been committed), and the end of its connection |
//! | that is being sent a row when the server dies | the end of its connection: nothing can be said inside a message |
//! | whose server hangs: it accepts connections and answers nothing | after `monitor.dead_after` the same as by its death; a read on a replica of which nothing was shown runs again before that |
//!
//! The server's own farewells (57P01, 57P02, 57P03: a shutdown, a crash, `pg_terminate_backend`) are such losses, too, and never
//! the client's end.
//!
//! **Ended by somebody.** Who ends a backend because of what it reads does not want to meet that read again, on the primary least
//! of all. FATAL 57P01 is what a server says that stops, too. So a read that has run for two seconds and is ended by it runs
//! again only if the server goes: if the monitor is answered over the connection that it had before, 50 ms later, nothing but
//! that read was meant. Shorter ones run again in any case: they happened to be there when somebody ended all sessions.
//!
//! **In flight.** [`crate::session`] knows of each ReadyForQuery that is owed what was at stake with it (`stake.rs`): work, the
//! beginning of a block, its end. From that it is told what may have lasted (`loss.rs`). Where several requests were on their
//! way, each has its own answer, and all up to a COMMIT share its fate. A block that is over at the server goes on for the
//! client as one that failed: everything is refused with 25P02 up to ROLLBACK or COMMIT, which no server sees (`begin.rs`).
//! Settings and prepared statements follow to the next server, as they were before the transaction. State that a lost
//! transaction would have left behind never was; state from before it (temporary tables, session locks, cursors WITH HOLD, a
//! LISTEN of the client's own connection) is gone, and the client is disconnected so that it does not go on without.
//!
//! **40001, not 57P01.** Both are retried on by those who retry at all. But 57P01 and class 08 make connection pools in
//! applications throw the connection away, and all of them connect anew at once, just when the new primary is short of
//! time. 08007 has no such alternative: there is no other code for "not known".
//!
//! **Held.** [`crate::cluster::UserPools::lease`] waits where there is no server to wait for (`hold.rs`): in order of arrival
//! for each user, `pool.hold_limit` clients of a database at most, the next one gets 57P03 at once. After three seconds a client
//! hears a NOTICE, if it takes notices. It may cancel its request, and go. When there is a primary, clients are let on to its
//! pool one after the other; from there on `pool.checkout_timeout` runs. A request that had stood in the queue of the server
//! that went away has its whole `hold_timeout` all the same. Whom any replica will do (`eventual`) goes to the first that is
//! there, in nobody's way. A pool that is full, ours or the server's (class 53), is no server that is away:
//! there the wait is `checkout_timeout`, and nobody is told that a server is missing.
//!
//! Reads of the levels that hang on positions need a primary to ask, and are held with the writes while there is none;
//! `eventual` reads go on on replicas.
//!
//! **Found out.** The [monitor](crate::cluster::monitor) alone judges servers, for all sections that share
//! them. What the traffic of any of these meets with makes it look at once: a connection that ends, a login that is refused,
//! reset or too slow, a FATAL, a primary that says 25006. None of that is a judgement by itself: one terminated backend says
//! nothing of its server. Nor does one probe that the server answers by an error, but that it keeps from its login what is asked
//! (42501 and the like): then a plain question tells its role alone, and nobody reads from it by position. One thing is: a login to what is taken for the primary that finds a standby (`in_hot_standby`) is not
//! used for writes. While there is no primary, each server is asked ten times a second.
//!
//! **Hung.** A server that does not answer two probes in a row (`monitor.timeout` each) is down, and nothing new is sent to it. A
//! replica is so already when it has said nothing for a second, neither to a probe nor to a client, while another server
//! answers its probe at once. What waits for its answer then goes on elsewhere if it can: a read on a replica of which nothing
//! was shown. All else waits for as long as the server may be dead, `monitor.dead_after` from the first question that got no
//! answer: a pause is better than an error, and PostgreSQL's own pauses (a checkpoint on slow disks, a machine that is moved)
//! last for seconds. Then the connections are given up, and clients are told by what was at stake, as when they had been cut.
//! If another server becomes primary before, that is when. Whoever waits for a connection of a primary, or for what it shows, is
//! held when his `checkout_timeout` is over and a probe of it has no answer: he is not refused for a second probe's time. A refused login is an answer: a server that is full, or shuts down,
//! is not given up. Clients are woken for this by an order to look ([`crate::frontend::clients::Order`]), since their server
//! will not wake them. So are those that replicate: they are told 57P01, if the server did not stop in the middle of a message.
//!
//! **Names.** A server's name is looked up by the monitor, anew for each connection of its own and every
//! `monitor.resolve_interval`; all other connections go where the monitor's does (`abode.rs`). A name that does not stand for
//! that address any more is another server's: connections are made anew, as transactions end, what was known of how far it is
//! is forgotten, and its role is asked for at once.
//!
//! **Patroni.** Where `databases.NAME.patroni` names the REST APIs of the servers' Patronis, each probe of a server ends with two
//! questions to its own one (`patroni.rs`): is it the leader, and if not, is it a replica to read from? A server is primary if
//! it says so itself and its Patroni does, too: neither knows enough. Patroni gives the lock to a server before it is promoted,
//! and one that has lost the lock takes writes until it is stopped. It is asked after the server, so that both answers to a
//! promotion agree.
//!
//! | the server says | its Patroni says | it is |
//! |---|---|---|
//! | primary | leader | primary, before any other that nothing is said of, whatever their timelines |
//! | primary | no leader | fenced: it gets nothing new; what is open there may end until there is another primary |
//! | primary | nothing | primary, if no other is the leader, and it was not fenced before |
//! | in recovery | leader | a replica that is about to be promoted |
//! | in recovery | replica | a replica, if `routing.max_lag` says so too |
//! | in recovery | neither | no replica to read from: `noloadbalance`, behind, not running; or the leader of a standby cluster |
//! | in recovery | nothing | what it is without Patroni |
//! | nothing | (not asked) | down |
//!
//! Nothing is: no connection, no answer within `monitor.timeout`, or another status than 200 and 503. An API that is away for
//! an upgrade must not be an outage, so that what servers say counts then, and the log says so. One thing outlasts its
//! silence: a primary that was fenced stays so until it has been something else, or its Patroni answers, or a reload takes
//! `patroni` out. It may be the one that was cut off, and whose Patroni has died of that.
//!
//! **Fenced.** When another server has become primary, nothing more is sent to the one before, not even the COMMIT of a
//! transaction that is open there, and it may answer as well as ever: its client is told that the transaction is lost. Who waits
//! for its answer is given up within a second, too: a commit there may wait for ever for a standby that follows the new one.
//! It stays so when the new one does not answer, also over a reload and a restart by hand-over: no server is primary on an
//! earlier timeline than the database cluster is known to have come to. A server of another database cluster (another system
//! identifier) has another count of timelines: it is taken when there is no primary of the old one any more, and whatever was
//! seen of that is in doubt. A cluster that was restored from a backup, so that its timeline is an earlier one, cannot be told
//! from a primary that returns: `SHOW NODES` says so, and `ATTACH server` (of one that is not detached) takes it.
//!
//! **Rivals.** Two standbys that are promoted beside each other both come to the same timeline. One of them is taken: the one that
//! answers first, and of two that are known at once the one whose timeline began farther on, which has more of what was
//! acknowledged before. The other is its rival as soon as both have said, one after the other and the primary last, that
//! they are primary on that timeline. A rival stays fenced when it is the only one left, over reloads and hand-overs, until it has
//! been in recovery (rewound, or made anew), comes with a later timeline, is its Patroni's leader, or an operator says
//! ATTACH: then all that was read or written before is in doubt. Meanwhile clients are held, as without any primary.
//!
//! **Strictly unsent.** A connection that proves dead before anything of a request was sent leads to another one, and the
//! client hears nothing: idle connections are looked at before they are lent, and settings that must be confirmed first are
//! confirmed before the request is sent. Once a request is on its way nothing tells whether it began: a reset may come from
//! anywhere between, and FATAL 57P01 says the same before, under and after a statement. So it counts as begun.
