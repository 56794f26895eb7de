//! What was decided, when and why; newest first.
//!
//! **2026-11-24, nobody waits for an answer by looking for it.** A worker whose one client waits could look for the server's
//! answer for some microseconds before it sleeps. With up to 50 of them, on 2 cores of an AMD EPYC, a single client of `pgbench -S`
//! had 1.02 and 1.05 of PgBouncer's p50 (off, on), without 1.00 and 0.96, and the pooler took twice the CPU (six paired rounds,
//! `benches/compare/run.sh --workloads simple --clients 1 --rounds 6`): the core on which it looks is wanted by the two others.
//! Nor is there anything left in the ring: ten sends of 100 bytes to loopback sockets take 3.1 microseconds each by `send`, 3.2
//! by the ring, and as much with `IORING_SETUP_DEFER_TASKRUN`, registered files, no completions, or all of it; receives by
//! the ring are dearer. What the ring saves is that nobody takes the core in between.
//!
//! **2026-11-24, a name is lent, not a text rewritten.** SQL's EXECUTE names a statement that servers have under another name. To
//! put that into the text would need the text's grammar to be known to the letter, in EXPLAIN and CREATE TABLE AS, too. So the server
//! is given the statement once more, under the client's name, for as long as the transaction lasts: a Parse for each such request,
//! which is rare. It is lent only what PREPARE would take: an EXECUTE of DISCARD ALL would empty a connection without a word.
//!
//! **2026-11-24, users have rules, and no limit of server connections over all databases.** `[users.NAME]` may say how a user is
//! pooled; the rules are part of each section's settings, so that a reload applies them as it does those. PgBouncer's
//! `max_user_connections` would be a second quota across clusters, and two quotas for each login; a role's `CONNECTION LIMIT` is
//! one already, the server keeps it whoever connects, and within it idle connections make way for those that are waited for.
//!
//! **2026-11-23, released binaries are built by a profile.** The profile of a query is flat: nothing in it takes a tenth. What is
//! left is calls and moves, which a compiler leaves out that knows what is hot (`make release`, `scripts/release.sh`). Instructions per
//! query (callgrind, 32 clients, splitting on): simple 12,830 to 10,610, extended 16,230 to 12,530. CPU per query, TPC-B statement and
//! new connection: 0.91 to 0.93 of the plain build's in seven paired rounds. Annotations of ours (`inline`, `cold`) would say the same
//! for as long as nobody changes the code. A profile in the repository would spare users five minutes, and bind them to one compiler:
//! its format changes with LLVM's, and another one refuses it. What is never run while the profile is made is taken for rare, and
//! made small: so all that a busy pooler does is in `benches/compare/train.py`, TLS, COPY and new texts, too. Names of functions
//! in a profile depend on the build's settings: link-time optimisation or debug information set by cargo's profile, and nothing matches
//! any more, without a word. Tests run the plain build.
//!
//! **2026-11-23, a new process that lives is not doubled.** If nobody can be handed over any more, the old process could accept
//! again: then two poolers, each with pools of its own, would share the clients for good, and half of them would see the old
//! configuration. It could end the new one, and with it the connections of all who have gone over. So it does neither: the new
//! process keeps whom it has, and the old one drains. Only if the new one has ended does the old one serve on.
//!
//! **2026-11-23, channel binding for clients, not towards servers.** A connection string that requires it must work, and every libpq
//! prefers it where it is offered, so a login that goes through somebody else's TLS is refused. Towards servers it would
//! refuse what works today: a server behind a proxy that has TLS of its own on both sides. Whether a server is the right one is for
//! `verify-full` to say.
//!
//! **2026-11-23, a database that somebody would drop is left.** Test runners create and drop databases, and PostgreSQL refuses while
//! a pool has idle connections there (55006). It waits five seconds for sessions to end, so nothing need be held or sent again: when
//! the statement passes, what no client uses is closed. By the name in its text, not for all databases without clients:
//! where each tenant has a database, making one more must not cost the others their connections. Who is logged in keeps the
//! database, or DROP DATABASE would do what it does not on a direct connection.
//!
//! **2026-11-22, a startup packet is worked out once.** Programs open all their connections with the same packet. Each worker
//! keeps some hundreds of packets with what they ask for; as that is a function of the packet's bytes alone, nothing ever makes
//! it invalid. With that, a login whose future fits the chunks that the allocator has at hand, buffers from the shelf, a
//! goodbye without boxes and no timer of the runtime's, a connection with one query over trust takes 32,100 instructions in user
//! space where it took 46,100 (callgrind, at the same number of turns), and over SCRAM 48,500 where it took 70,400, and a fourth
//! less hashing: the keys are taken in once. Of what is left a third is the query, and a quarter tokio's, with two
//! allocations aligned to 128 bytes. In six paired rounds on a busy machine a connection took 1.03 times PgBouncer's CPU over
//! trust, where it took 1.40, and 1.16 times over SCRAM, where it took 1.39. The price: a worker has no timer of its own any
//! more, and is told once a second to look for logins that take too long. So `login_timeout` is kept to a second.
//!
//! **2026-11-22, both must have spoken before one is a rival.** Who comes with the timeline of a primary that has died may be
//! another that was promoted beside it, and lacks what was written since; or the same data, started at another address, from
//! a disk that both hosts can mount or a machine that was moved. Nothing that a server says tells them apart: the place where
//! its timeline began is forgotten by a restart, and a crash leaves another in its stead. To refuse both would make an outage of
//! each lawful move. But two hosts cannot write to one disk at a time: who says that it is primary, and is followed by such an
//! answer of the primary's, has a history of its own. The primary is asked for that at once. What is left: a primary that
//! dies within that moment, or was never seen together with the other. A server that is listed twice, under two addresses, is
//! its own rival: the second address is of no use.
//!
//! **2026-11-22, whoever answers first is primary, and need not be the farther one.** Of two standbys promoted at once, the one that
//! had received more would be the better primary. To know it, each claim would have to wait until all others have answered,
//! and those that are down or hang never do: every failover would last longer, for a case that is an operator's mistake.
//!
//! **2026-11-22, a replica's silence is judged by what it says to others.** Two probes of two seconds are what a frozen replica cost
//! those who read from it. A shorter time limit alone would give up replicas that have too much to do, and send their reads to
//! the others, which would be next. Silence towards everybody, for a second, is no load: where 500 clients wait, somebody is
//! answered. A quick answer of another server rules out that it is our own process or network that stands still. A primary keeps
//! its two probes: nobody can take its place, so that knowing earlier would only make errors of pauses. `pglagoon drill
//! freeze-replica` (five phases of 5 s, debug build, two shared cores): the longest pause fell from 4 s and more to 1.3 to 1.9 s. At
//! the barrier the frozen replica is not waited for any longer, either. Nothing was given up beside `pgbench -c 500`.
//!
//! **2026-11-22, servers are looked after once, however many sections name them.** Each section probed its servers itself: a
//! thousand took 13 to 16 % of a core at rest, and more connections than the servers had. Now a `Cluster` is a list of servers
//! with the way they are reached (TLS, the monitor's login, Patroni); sections with the same one share its probes, positions,
//! history and standings: two connections to each server. What a section says for itself stays its own: whether a replica is
//! too far behind (`max_lag`), how fast servers answer its requests, whose turn it is. The list must be the same, in the same
//! order: places in it are what histories and routes name. To probe each address once, whatever lists it stands in, would need
//! standings per list above facts per server: twice the machinery, for configurations that nobody has shown us.
//!
//! **2026-11-22, catalogs that nobody looks into are not read.** A thousand readers at the start, and again each minute, were a
//! storm. Sixteen of a cluster's databases have theirs kept at rest, so that small installations are as warm as before; of the
//! others it is read when a client logs in or names something, and dropped when nobody has looked into it for a beat. Four are read
//! at once; the beat is a minute, or half a second for each catalog that is kept: with a thousand in use eight minutes. What
//! that can cost is a read that a replica refuses, and that runs on the primary then.
//!
//! **2026-11-22, what looks through all pools does little.** Ten times a second all counters of all pools were added up to see
//! whether a sample was due, and all pools were swept: at a thousand databases two thirds of the CPU per query in user space.
//! Now it is first asked whether the sample is due, and only pools with a queue are swept ten times a second, the others once.
//!
//! **2026-11-22, a worker's own things are behind no lock.** Instruction counts did not show where a fifth of the time in user
//! space went: 97 locked instructions per query and 6.4 calls of `clock_gettime` (65 ns each on the machine at hand). Buffers, caches
//! and outbox were behind mutexes that one thread alone ever took, because tokio's tasks had to be `Send`. Now each worker has a
//! `LocalRuntime`, and its tasks share an `Rc<Worker>`. The time is asked for when bytes have come, and holds for what follows
//! from them in the same turn: what a read may return is bounded by an instant that is not before it came, and no later one is needed.
//! 68 locked instructions and 3 to 4 calls are left, half of them tokio's; user time per query fell by a tenth to a fifth.
//!
//! **2026-11-22, what was tried for speed and left out.** Each in paired rounds on 2 cores. Huge pages for the code (its text moved
//! to anonymous ones) and for the heap (`glibc.malloc.hugetlb=1`): 0.94 to 1.03 of the CPU per query and 1.00 to 1.05 of that per
//! connection, without a direction. TCP_DEFER_ACCEPT, so that a connection is accepted together with its first bytes: 0.99 to 1.06
//! per connection; PgBouncer has it, and makes the same number of system calls otherwise (20.8 for a connection with one
//! query, PgBouncer 24.9). Of its 117 microseconds for one over trust 105 are the kernel's, of our 155 121: the aim of 0.85
//! times its CPU is below what the kernel takes from both. A server that comes back to the first of the next eight waiters
//! on its own worker, as long as nobody has waited for a millisecond, so that it need not move to another reactor: 1.06 and
//! 1.03 times the CPU with two workers and 64 and 200 clients; and nobody overtakes, which is worth more. An idle connection
//! on the asker's worker is preferred, and moves only if there is none.
//!
//! **2026-11-22, a server next door is cheaper over its Unix socket.** 0.93 times the CPU per simple query and 0.97 times that per
//! TPC-B transaction in six paired rounds with 32 clients. Nothing is done for it but to take such addresses.
//!
//! **2026-11-22, glibc's allocator, optimised for speed.** With mimalloc a new connection cost as much as before within the noise
//! (1.15 to 1.3 times PgBouncer's in the same eight rounds), and an idle client 4.1 KiB instead of 2.0. `opt-level = 2` and `"s"`
//! were tried because what a single client waits for is code that is not in the caches: instructions per query rose from 14,700
//! to 15,200 and 17,800, and the cache lines of code that a query runs through (786) to 802 and 862: what is inlined is shorter.
//!
//! **2026-11-22, what a client waits for is boxed.** A task is as large as the largest thing that it may ever await. All that is
//! not moving bytes is one boxed future, made when it is needed: an idle client's task has 256 bytes, where it had 384.
//!
//! **2026-11-22, a pipeline at a replica is no longer than what is kept of it.** A client may send reads without end before it
//! looks at an answer. To keep them all for the case that the replica dies would let it grow our memory; to keep the first ones
//! only would lose what it sent last. So a read waits while 16 KiB of them are unanswered: a few hundred, more than a replica
//! next door ever has waiting. A batch is one transaction, so that a part of it never runs again behind another part that was shown.
//!
//! **2026-11-22, what is sent in one turn leaves together.** A send over loopback wakes its reader, who takes the core as soon as
//! the call returns. Readiness stays with epoll and tokio; only short messages are handed over, to be sent by one
//! `io_uring_enter` behind all tasks that were awake (`net::outbox`). The pooler's CPU per query fell from 19.5 to 16.4
//! microseconds (simple) and from 21.3 to 17.1 (extended), where PgBouncer took 18.1 and 19.0 in the same rounds. All of io_uring
//! (multishot receives, buffer rings) would save a little more and cost tokio's reactor. The price: a message that the kernel
//! does not take comes back to its task a turn later, a letter knows its socket by number, and two blocks of `unsafe`. Without
//! io_uring (old kernels, many containers) everything is sent at once, as before; half the tests run so.
//!
//! **2026-11-22, alone, a message does not wait.** At the end of its turn a message has waited for what its own task had still to
//! do: to give back the lease, to count. After sixteen turns with one message each the next one is sent at once, until two are
//! posted in one turn: then they leave together again. A single client's average latency is 0.94 to 0.98 of what it was, in
//! three sets of 8 and 12 paired rounds; with 32 clients nothing changes.
//!
//! **2026-11-22, no fat LTO.** One unit of code and LTO over all crates took the release build from two minutes to ten on a busy
//! machine, and gave nothing that could be seen: 4.9 microseconds in user space per simple query beside 4.1 with thin LTO, 9.35
//! beside 9.25 extended, in five paired rounds.
//!
//! **2026-11-22, an idle client keeps nothing of its login.** A box whose content is moved out of it lives as long as its
//! variable: 470 bytes for each client, as long as it stayed; a future that is captured and then awaited is kept twice: 380 more.
//! 2.8 KiB for each idle client became 2.0.
//!
//! **2026-11-23, silent clients sleep.** Counted with malloc's blocks of 2,000 idle clients, 1.8 KiB each: 656 bytes a relay and
//! its session, 272 its card, 272 its task, 272 tokio's registration of its socket, and 340 lost between blocks, because task and
//! registration are aligned to 128 bytes. So a client that nothing is under way for, and that has asked for no server between two
//! looks a second apart, gives up its task and its registration; its relay lies in a bed beside others, its socket in a reactor of
//! its worker's own, which is a descriptor in tokio's. By itself that leaves holes of just that size in a heap that a thousand
//! logins have made in a second, and nothing goes back to the system. What lies between them must not be scattered: what a client
//! keeps moves when it sleeps, cards are made by the 32, and `malloc_trim` returns the pages in between when a sixteenth more
//! sleep than last time. An idle client takes 0.92 KiB. Statements and settings move as well; moved one by one, each took the
//! place that the one before had just left, and a client with 20 prepared statements took 3.8 KiB instead of 3.4; so places are
//! left only when all who came together have moved: 3.1 KiB. The state of TLS cannot be moved, and its clients stay awake: asleep
//! they took 9.6 KiB instead of 9.1. The price: four system calls and a new task for the first request after a silence (92
//! microseconds of CPU for such a lone request instead of 84: 1,000 clients with one each 3 s, medians of six rounds that differ
//! by more), and two more lines of `unsafe`. The hot path pays nothing: silence is seen by looking at cards, once a second.
//!
//! **2026-11-23, a row is forwarded before it is looked at.** Instruction budgets of the optimised build had not been held against
//! the code for some days: a result of 16 KiB in rows took 26,862 instructions in the session instead of 25,203, because what is
//! asked of rarer messages had grown. A row that nobody swallows now leaves at the head of that function: 22,452. `make test`
//! counts the unoptimised build only, where the growth was less than it allows; `make budget` would have told.
//!
//! **2026-11-23, what answers remember is limited by bytes.** A request's consequences are kept until its answer, those of a
//! batch until its ReadyForQuery: a client that runs one long SET without end in a batch without Sync had us keep each value. To
//! refuse would need an error that the server knows of, in the middle of a batch; to wait would be for ever, as the Sync stands
//! behind. So beyond 1 MiB settings are not followed any more and the client keeps its connection, as with any state that
//! cannot follow; and names wait, because their answers come without a Sync.
//!
//! **2026-11-22, parameter types that a client was told stay.** A statement whose types were left to the server got new ones on
//! another server connection once DDL had changed the columns: a client that binds in binary by what it was told wrote
//! 4611686018427387904 for 2.0 (`double precision` to `bigint`). On a direct connection the types are fixed by Parse. So a
//! ParameterDescription that reaches a client makes its statement the one that names these types, which is prepared beside the
//! other: one more Parse for each text and server connection, none for each client. To go on with the first one where its types
//! are known to be the same would save that, and cost a description for each statement of each connection.
//!
//! **2026-11-22, unnamed statements are kept where no client can tell.** Drivers prepare without a name for each execution, and
//! PostgreSQL parses and plans each time. It had waited until "cached plan must not change result type" could be healed. More than
//! that can be old in a kept statement: the types that its parameters were given, and what its strings were read as. So whatever
//! fails before it runs, runs again as it came: the client hears the server's own words. If it succeeds then, what was kept is
//! older than some DDL, and a generation ends. Only a request that can run again is served so: one Parse, one Bind of it, what
//! belongs to its portal, Sync; all there at once, with nothing behind it, outside a transaction block. In a block an error cannot
//! be taken back, a savepoint for each statement costs more than planning, and no DDL elsewhere announces itself. INSERT, UPDATE
//! and DELETE without RETURNING, with all types declared, could be kept there; that waits for somebody who measures that it
//! pays. A request that comes while a kept one may still have to run again waits for it; who has sent one is not made to wait
//! again, because what such a client sends is forwarded from then on. A request takes 850 instructions more here than if it
//! were forwarded (`session_extended`: 8,014 to 8,862), and the process less CPU in all, because the kernel carries less.
//!
//! **2026-11-22, what is kept without a name must last, come again, and drive nothing out.** `'today'::date` in a kept statement
//! would be that day for ever, and `'1/2/2026'` what the first client's DateStyle said: texts whose strings have digits or
//! name an instant are forwarded, and so is all of a client that has set what else has a part in the analysis (`search_path`, a
//! role ...): PostgreSQL would look names up anew, but with the parameters' types of the first time. Texts that come once (their
//! literals stand in them) are forwarded; the second time decides, because a text that has come twice most likely comes
//! again, and to count further would cost a counter for each. A connection that is full takes another only for one from
//! before DDL, or one that was out of use for sixteen times as many uses as it holds: with more texts in turn than there is
//! room for, the least recently used would always be the next to be needed.
//!
//! **2026-11-23, statements are shared by those who read texts alike.** Text and types do not say what a statement is: a server
//! reads strings and finds types once, under the settings and names of that moment. Shared by text and types alone,
//! `timestamptz '2026-06-01 00:00'` was the same instant in every time zone, and a table's column had the type that it has in
//! another tenant's schema. So the settings that have a part in the analysis are in the id, as a digest that is computed when
//! they change: none of them set is a digest of 0, and a Parse costs what it did. Clients of one driver and one time zone
//! still share. What a text names an instant by, or what is prepared after DDL, SET LOCAL and the like in the same transaction, is
//! its client's own under a name that nobody else finds. To share only texts without such strings, whatever the settings, would
//! share more, but would not help where names decide. A statement keeps the analysis of its Parse on the connection where
//! that was done, as on a direct one; on another connection it is analysed by what holds there then, which a direct
//! connection does not do. A schema for each transaction (SET LOCAL `search_path`) has texts parsed once more on each connection
//! that does not have them yet.
//!
//! **2026-11-22, a server that hangs is given up in two steps.** When it counts as down, only what can run again unseen leaves
//! it; errors come when `dead_after` is over. One step would either make every stall of some seconds an outage for those who are
//! in a transaction, or keep reads waiting that another replica could have answered.
//!
//! **2026-11-22, all connections of a server go where the monitor's does.** Each connection looked up the server's name for
//! itself. If that changes, or stands for several servers, positions were asked of one server and reads sent to another.
//! Looking up at each connection is not needed for following either: connections that are there already do not follow.
//!
//! **2026-11-22, what has been counts for who is primary.** Roles went by what servers say at the moment, so that a primary
//! of yesterday was taken again when today's did not answer. Now the highest timeline that was primary is kept, with the
//! database cluster's identifier, and what is earlier is refused for good, not for a while: an application that writes to the
//! wrong half of a split cluster is worse than one that waits for an operator. What may lawfully come with a lower timeline is
//! let in: another database cluster by its identifier, Patroni's leader, and by ATTACH what an operator has restored. A
//! timeline that a server does not tell is compared with nothing.
//!
//! **2026-11-24, few errors say that something may not be asked.** Any error to a probe led to a plain question that tells no
//! timeline, for as long as the connection lasted: one `pg_cancel_backend` later the new primary was of timeline 0, and the one
//! of yesterday took writes again. Five SQLSTATEs lead there now, all else is a probe that failed, and a primary that tells no
//! timeline any more keeps the one that it told. Where privileges are really missing there is no fencing by timeline; a probe
//! between the two, without `pg_control_*`, was left out: PostgreSQL lets everybody call them.
//!
//! **2026-11-24, at the barrier the primary's silence is not the replica's.** Both let a client through after `max_wait`, because
//! nobody could say what had been shown. A replica that is gone cannot be asked again, and what it showed is visible on the
//! primary long since, but for commits that wait for a synchronous standby. The primary can: so it is, until
//! `checkout_timeout` is over (40001), and who waits is held if it hangs or is gone.
//!
//! **2026-11-22, Patroni's silence frees nobody and fences nobody.** A REST API that does not answer could have meant "no
//! leader": then restarting Patroni everywhere, which leaves PostgreSQL alone, would be an outage here. It could have meant
//! "what the server says" without exception: then a primary that had lost its lock would get writes again as soon as its
//! Patroni died, too. So it means what was known before. See [`super::failover`].
//!
//! **2026-11-22, each server's own Patroni is asked, and nobody else.** `GET /cluster` of any one of them tells all members at
//! once, but out of its last look into the store, and needs a mapping from members' names to servers. The health checks are
//! what load balancers go by, and what Patroni's authors keep for them. They are asked one after the other, `/replica` only of
//! who is not the leader, by a client of forty lines: HTTP/1.0, a connection for each, no TLS. That is all that Patroni speaks
//! but TLS; who has made TLS a must there puts the API on the loopback of a proxy.
//!
//! **2026-11-22, after a failover what was read is in doubt as well as what was written.** A session that had written and then
//! read from a replica counted by what it had read, and one that waited for the new primary was looked at before it waited:
//! both went on in silence with a history that lacked their writes. Now a session is looked at when it has its server, and what
//! another replica than the promoted one showed counts, too. So more sessions are told in vain after a failover that loses
//! nothing: those that read or wrote behind the last position that is known to be kept. Silence would be worse.
//!
//! **2026-11-22, a lost transaction ends with 40001.** 57P01 would be retried on as well, but pools in applications throw
//! connections away by it, and ours is as good as ever. What may have been committed is 08007, without exception: a FATAL or a
//! reset before the answer proves nothing. See [`super::failover`].
//!
//! **2026-11-22, one line for each user.** Held clients wait in the order of arrival, but not behind those of other users,
//! whose login at the server may be what is wrong. `hold_limit` counts all of a database.
//!
//! **2026-11-22, nearby servers are listed, not labelled.** `routing.prefer` is a list of servers. The alternative, a zone for
//! each server and one for each pglagoon, needs a second name for what the addresses say already, and a table where `servers`
//! is a list. A pglagoon of another zone differs in one line either way.
//!
//! **2026-11-22, slow start is a lot drawn for each read.** A replica that has come back is passed over by chance, most of the
//! time at first, before anything else is asked of it. So it is the same under every policy, and a preferred replica is not
//! overrun. Response times alone would not do it: the first quick answer from a cold server would bring it everybody.
//!
//! **2026-11-22, a session that only reads wanders.** It stays with its replica for as long as that serves, so one that has come
//! back, or is preferred or quicker, would get those sessions alone that are new or have written. One of 256 of its reads asks,
//! as after a write, and goes where balancing would send it if that is known to be fresh enough within 5 ms; else it stays. It
//! never goes to the primary for it. Which read that is, is told by the instant of the one before: nothing is counted.
//!
//! **2026-11-22, the old process starts the new one, and speaks with it over its standard input.** A socket at a known place
//! would have to be protected, and would decide who may take over; an inherited descriptor's number would have to be believed
//! (and be `unsafe`). The program is looked up under the name by which the process was started, not as the file that it was:
//! that one may be replaced by then. Whoever wants both processes under a supervisor has systemd, which is told who is the
//! main one.
//!
//! **2026-11-22, what a client has seen does not go along in a restart.** It is an instant and a place in a list, and neither
//! means anything to another process. A client that has seen something on a replica leaves when the primary shows it, and
//! arrives as one that has seen all there was: its next read asks for one position, as after a write.
//!
//! **2026-11-22, a switchover is held ahead of the pools.** Clients in a pool's queue have a deadline of their own there, and a
//! promotion takes as long as it takes. So they are taken out of the queues and wait for one thing: its end.
//!
//! **2026-11-22, a reload that changes a section's servers makes a new section, and clients move.** The alternative was a
//! list of servers that grows and shrinks under way: every place in it (histories, routes, pools) would have had to outlast
//! that. What is known of a server is copied, the line of primaries is carried on, and a client that has seen something on a
//! replica leaves only when the primary shows it: so nothing that it carries along names a server. Connections to servers
//! that stay are made anew, as transactions end.
//!
//! **2026-11-22, `session` is the default level.** It was `sticky`. The checker in `tests/postgres/prove.rs` finds no
//! violation of it under any of its faults, and 99.5 % of reads on replicas under replay pauses of 20 to 250 ms (8 sessions,
//! 5 % writes, 10 ms think time), where a window of half a second leaves a tenth.
//!
//! **2026-11-22, a client keeps an instant, not a position.** The plan had marks: positions that each session carries. But a
//! position of the primary that is asked for *after* an instant bounds all that anybody had seen by then, on any server, so
//! the instant says as much. Nothing is asked on the write path, a session's history has 24 bytes, and all levels come to
//! one question: which replica has replayed a position that was asked for since then (`strong`: since the read arrived;
//! `bounded`: since `max_staleness` ago). A token taken from a client needs no more either, once its timeline is checked.
//!
//! **2026-11-22, no gate ahead of the read.** The plan had a statement that fails unless the replica is fresh, sent ahead of
//! the read in the same Sync. Instead the replica is asked by the shared connection at the same time as the primary is: a
//! read after a write needs that round trip anyway, and the answer serves everybody who waits. The gate would have needed the
//! request to be kept and sent again, a Query of its own in the simple protocol, and a round trip before REPEATABLE READ.
//!
//! **2026-11-22, staying is bound to the connection.** A replica that crashed serves reads before it has replayed as much as
//! it had shown. So a client stays with its replica only over a connection that was there when it last read; for a younger
//! one, a position is asked for. Nobody has to notice the restart.
//!
//! **2026-11-22, the barrier stands before every way from a replica to the primary.** The plan had it at fallbacks of reads.
//! A transaction that begins after reads on a replica can go back in time just as well. It costs such a transaction two
//! shared round trips; while a commit hangs at its synchronous standby, clients that have seen it on a replica wait for it.
//!
//! **2026-11-22, nothing of a replica's answer is passed on before it is known whether it is an error.** Otherwise the
//! ParseComplete before an error would have reached the client, and the request could not be sent again. The answer waits
//! in the relay's buffer, at most 4 KiB of it; PostgreSQL sends its beginning together with what decides.
//!
//! **2026-11-22, what a replica refused stays refused.** A text that a standby could not run is kept from replicas until the
//! process ends, whatever becomes of the catalog: each rescue is a mistake of the classifier's, to be mended there.
//!
//! **2026-11-22, code in C behind operator classes is believed.** ORDER BY and DISTINCT call an operator class without naming
//! it. Those in SQL or another interpreted language are harmful; those in C, which only superusers can install, are not,
//! or every unknown index extension would keep all reads on the primary. An IMMUTABLE function in an index, a CHECK or a
//! statistics object is believed, too: the planner may fold a call of it with constant arguments.
//!
//! **2026-11-22, one listener for a database.** LISTEN alone is answered by pglagoon when the listener's own LISTEN has been.
//! When the connection is lost, listening clients are disconnected:
//! to listen anew in silence would lose what was notified in between, and nobody would know.
//!
//! **2026-11-22, `admin` stands left of `frontend`.** The plan had it on the right. The handshake hands a visitor of the
//! virtual database to the console; the console knows nothing of clients but the rows that the assembly shows it.
//!
//! **2026-11-22, a route names no replica.** The plan had `Route::Replica { node }`. The session would have to know every
//! node's load at the instant of its decision, and would be wrong by the time a queue has been waited in. A route says what
//! a replica must be (`need`), the lease picks one, and picks again if that one fails.
//!
//! **2026-11-22, statements are known by a keyed hash.** A prepared statement's name on servers is a 128-bit SipHash of its
//! text, types and a generation that grows with DDL. Workers need no shared registry to agree on a name, and nobody outside
//! can make two texts meet. The generation keeps a client from inheriting another's result type from before a DDL.
//!
//! **2026-11-22, "cached plan must not change result type" is healed where the client is told the columns.** A request outside
//! a transaction block that fails so is prepared anew and runs again, if it parses or describes what it runs, or is a simple
//! Query. One that binds what was described earlier would read the new rows by the old description, silently, with some
//! drivers: it gets the error, as from the server itself. The healed statement is of a new generation, so that no other
//! connection serves it by an old plan; the generation grows once per DDL, whoever stumbles over it first.
//!
//! **2026-11-22, a transaction that moves is a deferred BEGIN once more.** `transactions = "promote"` has no machinery of its own
//! for the primary: when a block leaves its replica, the replica's transaction is rolled back unseen and the BEGIN is deferred
//! again, with the savepoints and SET LOCALs that it must repeat; lease, barrier and errors are those of any deferred BEGIN.
//! The isolation level decides whether a block may move at all, and no report tells it: each server connection is asked once.
//!
//! **2026-11-22, secrets are parsed in `config`.** The plan has `auth/secret.rs` parse stored passwords. A verifier that is
//! malformed must be found by `pglagoon check`, and `config` stands left of `auth`; so `config::Secret` is the parsed form
//! and `auth` only uses it.
//!
//! **2026-11-22, the configuration is not read by serde derive.** Derived readers stop at the first mistake and know no path.
//! The reader in `config/raw.rs` reports every mistake with its key and line in one run.
//!
//! **2026-11-22, one thread more than workers.** Listening, probes, the HTTP endpoints and housekeeping have a runtime of
//! their own, so that nothing that is not about one client stands in the data's way. A connection made there moves to the
//! worker that leases it (two `epoll_ctl`).
//!
//! **2026-11-22, no timer per query.** Waits in the pool's queue, idleness and age are ended by one sweep ten times a second;
//! a client has a timer only if a time limit is configured for it, or if no server is there for it (it is told so after three
//! seconds). That last one used to be armed for every wait in a pool's queue; without it, with the server chosen twice
//! instead of three times, and with a wait's state small enough for the allocator's quick bins, instructions per simple query
//! went from 15,590 to 13,910 (32 clients, pool of 20, one replica) and from 19,780 to 17,330 (500 clients).
//!
//! **2026-11-22, a pin is checked by the server, a setting is asked for.** Which statement ends a temporary table, a lock or a
//! cursor cannot be read from texts; whether it is there is one query between two transactions. It is asked after whatever
//! may have ended the state, and after what may have made it: a lock that was not got pins nobody. Settings that a text does
//! not tell are asked for by name. Names that no text tells (a DO block, a function) cannot be: PostgreSQL lists no
//! placeholders, so such a client stays pinned.
//!
//! **2026-11-23, what a server may refuse is waited for.** Settings used to go ahead of the request in one write once a server had
//! taken the client's values; but taking the last client's away may be refused, too (a role set what its user may not reset), and
//! then the request had run under them. Now only settings that anybody may set and reset, and whose values mean the same
//! whatever else is set, go so: a list of PostgreSQL's own (`application_name`, `timezone`, `search_path`, the planner's). Anything
//! else (a role, `a.b`, whose library another connection may have loaded) costs a round trip when a connection changes hands.
//! Pairs of settings that have been seen to work would have saved that to some, and would not have been sound: what works on one
//! connection need not on the next. A refusal is answered with DISCARD ALL and another try, the role first; a client is cut off
//! only for its own values.
//!
//! **2026-11-22, sequences are kept apart, not carried along.** Pinning every client that inserts would end pooling for all;
//! nothing tells who will ask for `lastval`. So a stranger's value is discarded before anybody asks, and only users whose
//! clients have asked once are pinned by what they write. Before that, a client that has written gets the connection of its
//! last write again if that is idle: a look at up to 64 idle connections, for such clients only. Where a trigger or a default
//! asks (the catalog tells), strangers' values are discarded ahead of every request, and nobody is pinned: such code asks
//! in the transaction that drew.
//!
//! **2026-11-22, notifications come ahead of ReadyForQuery.** PostgreSQL sends those of a session's own transaction there, and
//! programs that look once after each command rely on it. The shared listener hears them a moment later, so a client that
//! listens and has written waits for one round trip of the listener's connection, at most a second. What its process ID would
//! tell (whose notification it is) is left as the server says it: which client had that process is not known for sure.
//!
//! **2026-11-22, what runs by the way is judged for the whole database.** A trigger's body is read like a function's, but which
//! statement fires it (through views, rules, partitions, cascades) is not worked out: if any may leave what a server can be asked
//! for, every write is followed by that question. Settings are left out: too many triggers touch them locally.
//!
//! **2026-11-22, 50 ms after DDL.** PostgreSQL's regression tests found that the snapshot in which the catalog is read can stand in
//! the way of a VACUUM right behind DDL. With 200 ms of silence to wait for it no longer did, but reads behind DDL went to the
//! primary for so long that the driver matrix saw half of its drivers never use the replica.
//!
//! **2026-11-22, BEGIN is deferred, always.** It costs nothing, and its first statement tells where it may run. What a client
//! may notice: `now()` is the first statement's time, and an error that a server would have had at BEGIN comes with that.
//!
//! **2026-11-22, in session mode everything runs on the primary.** A session's state lives on one server; splitting it would
//! need a second connection per client whose state nobody keeps equal.
//!
//! **2026-11-23, users share a full database by patience.** `max_db_connections` is one limit over pools that cannot hand each other
//! a connection, because it is logged in as its user: to pass it on is a login, milliseconds of the server's. Two users with eight
//! clients each that are always busy, four connections, 10 ms of work (12 s, one run): PgBouncer 1.18 served the first 5,331 times and
//! the second 8 times, because the first is never idle; 284 and 92 per second here, where one connection goes to who has waited
//! 250 ms longer. A user that asks once a second beside a busy one gets his connection back within some 270 ms where an idle
//! one was taken from him after 250 ms, so it is taken after a second now. Taking it with every return gave back-to-back requests
//! 270 ms each, and was thrown away.
//!
//! **2026-11-23, users are looked up at each login, and nothing is kept.** An answer that is kept lets in who was dropped, and keeps
//! out who has changed his password: SCRAM sends the salt before the proof, so there is no asking again. It costs some 30
//! microseconds of CPU beside 230 for a login over SCRAM, and nothing that could be seen of the 4.8 ms that a client waits (pgbench -C,
//! 4 pairs of 400 logins, 2 cores of an Intel Xeon, shared).
