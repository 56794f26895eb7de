//! The workers: one thread with one current-thread runtime each. The only file that knows the runtime's shape.
//!
//! A client lives on the worker that it was handed to; its tasks, and the sockets of the server connections it uses, stay
//! there. The first worker accepts, which spares most connections the way from one thread to another. What is not about one
//! client (probes, the console's HTTP) runs on the process's own runtime, so that nothing stands in the data's way.

use crate::frontend::listener::{self, Accepted};
use crate::frontend::{Frontend, Worker, dormitory};
use crate::net::Outbox;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::runtime::{Builder, Handle, LocalOptions, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

/// A worker's stack, in bytes: enough to ask sqlparser about a text of some two hundred tokens without making one for it. What
/// has never been used of it takes no memory.
const STACK: usize = 8 * 1024 * 1024;

/// The threads that serve clients.
pub struct Workers {
    inboxes: Inboxes,
    runtimes: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to the workers. Cheap to clone; they end when all are gone.
#[derive(Clone)]
pub struct Inboxes(Arc<[Inbox]>);

struct Inbox {
    sender: mpsc::UnboundedSender<Accepted>,
    /// Connections that the worker has, or is about to have.
    load: Arc<AtomicUsize>,
    /// Wakes it, to look after what has no timer.
    beat: Arc<Notify>,
}

impl Inboxes {
    /// Gives a connection that the first worker has accepted, or nobody here, to the worker with the fewest.
    pub fn hand_over(&self, accepted: Accepted) {
        let loads = self.0.iter().map(|inbox| inbox.load.load(Ordering::Relaxed));
        let Some((place, _)) = loads.enumerate().min_by_key(|(_, load)| *load) else { return };
        let accepted = if place == 0 { Some(accepted) } else { accepted.for_another() };
        let Some(accepted) = accepted else { return };
        let inbox = &self.0[place];
        inbox.load.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone has panicked; the connection is closed.
        let _ = inbox.sender.send(accepted);
    }
}

impl Workers {
    /// Starts `count` workers. `key` is the process's secret for hashing texts.
    ///
    /// # Errors
    /// No thread or no reactor to be had.
    pub fn start(count: usize, key: [u8; 16], frontend: &Arc<Frontend>) -> io::Result<Self> {
        let (mut inboxes, mut runtimes, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..count {
            let (sender, arrivals) = mpsc::unbounded_channel();
            let (load, beat) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
            let (starting, started) = sync_channel(1);
            let (frontend, inbox) = (frontend.clone(), Inbox { sender, load, beat });
            let (load, beat) = (inbox.load.clone(), inbox.beat.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).stack_size(STACK);
            // Such a runtime never leaves its thread: its tasks share what they share without locks.
            let build = || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            threads.push(thread.spawn(move || match build() {
                Err(error) => drop(starting.send(Err(error))),
                Ok(runtime) => {
                    let _ = starting.send(Ok(runtime.handle().clone()));
                    let worker =
                        Worker::new(index, key, outbox(frontend.access.load().config.listen.io_uring));
                    runtime.block_on(work(arrivals, frontend, worker, load, &beat));
                    // Tasks that are still there end where they stand.
                    runtime.shutdown_background();
                }
            })?);
            runtimes.push(started.recv().map_err(io::Error::other)??);
            inboxes.push(inbox);
        }
        Ok(Workers { inboxes: Inboxes(inboxes.into()), runtimes, threads })
    }

    /// The way to them.
    pub fn inboxes(&self) -> &Inboxes {
        &self.inboxes
    }

    /// Runs a task on the first worker until it ends or what is answered is dropped.
    pub fn spawn_on_first(&self, task: impl Future<Output = ()> + Send + 'static) -> Spawned {
        Spawned(self.runtimes[0].spawn(task))
    }

    /// Connections that the workers have, or are about to have.
    pub fn connections(&self) -> usize {
        self.inboxes.0.iter().map(|inbox| inbox.load.load(Ordering::Relaxed)).sum()
    }

    /// Has the workers look after logins that take too long, and clients that are silent. To be called once a second: a worker
    /// has no timer of its own, so that it need not look at one in each of its turns.
    pub fn beat(&self) {
        self.inboxes.0.iter().for_each(|inbox| inbox.beat.notify_one());
    }

    /// Ends every worker and whatever it still does, and waits for the threads.
    pub fn stop(self) {
        drop(self.inboxes);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// A task on a worker, which ends with this.
pub struct Spawned(tokio::task::JoinHandle<()>);

impl Spawned {
    /// Answers when it has ended.
    pub async fn ended(&mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn outbox(is_wanted: bool) -> Outbox {
    if !is_wanted {
        return Outbox::closed();
    }
    Outbox::open().unwrap_or_else(|error| {
        tracing::info!(%error, "no io_uring to be had: messages are sent one by one");
        Outbox::closed()
    })
}

async fn work(
    mut arrivals: mpsc::UnboundedReceiver<Accepted>,
    frontend: Arc<Frontend>,
    worker: Rc<Worker>,
    load: Arc<AtomicUsize>,
    beat: &Notify,
) {
    spawn_local({
        let (worker, frontend) = (worker.clone(), frontend.clone());
        let wake = move |client| frontend.clients.wake(client);
        async move { poll_fn(|cx| worker.outbox.poll_deliver(cx, &wake)).await }
    });
    let looking = async {
        loop {
            beat.notified().await;
            worker.look_after(Instant::now());
        }
    };
    let serving = async {
        while let Some(accepted) = arrivals.recv().await {
            spawn_local(listener::serve(accepted, frontend.clone(), worker.clone(), load.clone()));
        }
    };
    tokio::select! {
        () = looking => {}
        () = dormitory::keep(&worker, &frontend) => {}
        () = serving => {}
    }
}

/// How many threads can run at once here.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The runtime of the process itself, for all that is not about one client.
///
/// # Errors
/// No reactor to be had.
pub fn process() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
