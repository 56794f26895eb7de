//! What 16 and 64 cores would meet with, and what is to be done then. On paper: nobody here has had them.
//!
//! A worker is a thread with its own reactor, buffers, caches and tasks, behind no lock. What workers share, in the order in which it
//! is met with by a query:
//!
//! | shared | touched | by |
//! |---|---|---|
//! | a pool's lock, with its list of idle connections | twice | [`pool`](crate::pool) |
//! | the pool's load, and the count of those who hold the pool | three times | [`pool`](crate::pool), written at each lease and return, read at each choice of a replica |
//! | a server connection's own memory | twice | moves with the connection from worker to worker |
//! | whose turn it is among replicas | once per read | [`cluster`](crate::cluster), one counter of a section |
//! | who is primary, rules, catalog | read only | each worker's copy says at once whether it is still so |
//! | counters, clients' cards | not shared | one of each worker, of each client |
//!
//! Beyond the query: one thread accepts, and hands over; one more thread probes servers, reads catalogs and answers the
//! console. All of the process's descriptors are in one table, whose lock the kernel takes for each socket made or closed.
//!
//! **The lock.** `cargo bench --bench hot -- --lock N` measures it on the cores that there are, `benches/width.py` simulates the queue
//! at it for more. On 2026-11-22, two shared cores of an AMD EPYC: a lease and its return take 14 to 15 ns for one thread, and 66 to
//! 83 ns each while two do nothing else: 7 ns for a visit, and 30 ns more when the lock comes from the other core. Between
//! sockets, and with the connections' own lines, it may be five times as much. With 15.5 microseconds of work per query:
//!
//! ```text
//!               --hold 7 --transfer 30                 --hold 20 --transfer 150
//!   workers     of perfect growth, the lock's load     of perfect growth, the lock's load     a lock for each 8 workers
//!   16          99.5 %,  7 %                           97.6 %,  33 %                          98.0 %, 16 %
//!   32          99.8 %, 15 %                           96.5 %,  67 %                          98.3 %, 16 %
//!   64          99.4 %, 30 %                           71.4 %, 100 %                          98.0 %, 16 %
//!   128         99.1 %, 60 %                           35.7 %, 100 %                          98.0 %, 16 %
//! ```
//! Simulated waiters spin. Real ones go to sleep after some hundred tries, so that beyond a load of about one half it is worse.
//!
//! **What follows.**
//! - 16 workers on one pool: nothing need be done. 32: nothing on one socket.
//! - 64, or 32 on two sockets: a pool that all workers use is to be split: a lock for each eight workers, each with a part of
//!   the pool's size, and what is idle in one part is lent to another that has a queue. The order of arrival then holds within
//!   a part only, and `max_waiting` is counted over all. It costs a pool smaller than its parts the whole idea: those stay as
//!   they are.
//! - A pool that is smaller than the workers has its connections move at every other lease, which is two `epoll_ctl` and a cold
//!   socket each time: more than the lock. Clients of such a pool belong on few workers: the way in can hand them over by their
//!   database once it is known, as it hands them over by load now.
//! - The counter of turns is one line that each read of a section writes to. A worker can take turns by itself: only the sum has to
//!   be even.
//! - One accepting thread takes some 50,000 connections a second. With `SO_REUSEPORT` each worker can accept for itself; clients
//!   that stay for long then sit where chance has put them.
