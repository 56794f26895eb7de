//! The workers: one thread with one current-thread runtime each. The only file that knows the runtime's shape.
//!
//! A client lives on the worker that it was handed to; its tasks, and the sockets of the server connections it uses, stay
//! there. What is not about one client (listening, probes, the console's HTTP) runs on the process's own runtime, so that
//! nothing stands in the data's way.

use crate::frontend::listener::{self, Accepted};
use crate::frontend::{Frontend, Worker};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// A worker's stack, in bytes: enough to ask sqlparser about a text of some two hundred tokens without making one for it. What
/// has never been used of it takes no memory.
const STACK: usize = 8 * 1024 * 1024;

/// The threads that serve clients.
pub struct Workers {
    threads: Vec<Thread>,
}

struct Thread {
    inbox: mpsc::UnboundedSender<Accepted>,
    /// Connections that the worker has, or is about to have.
    load: Arc<AtomicUsize>,
    handle: JoinHandle<()>,
}

impl Workers {
    /// Starts `count` workers. `key` is the process's secret for hashing texts.
    ///
    /// # Errors
    /// No thread or no reactor to be had.
    pub fn start(count: usize, key: [u8; 16], frontend: &Arc<Frontend>) -> io::Result<Self> {
        let threads = (0..count).map(|index| Thread::start(index, key, frontend.clone()));
        Ok(Workers { threads: threads.collect::<io::Result<_>>()? })
    }

    /// Gives a connection to the worker with the fewest.
    pub fn hand_over(&self, accepted: Accepted) {
        let idlest = self.threads.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed));
        let Some(thread) = idlest else { return };
        thread.load.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone has panicked; the connection is closed.
        let _ = thread.inbox.send(accepted);
    }

    /// Connections that the workers have, or are about to have.
    pub fn connections(&self) -> usize {
        self.threads.iter().map(|thread| thread.load.load(Ordering::Relaxed)).sum()
    }

    /// Ends every worker and whatever it still does, and waits for the threads.
    pub fn stop(self) {
        for Thread { inbox, handle, .. } in self.threads {
            drop(inbox);
            let _ = handle.join();
        }
    }
}

impl Thread {
    fn start(index: usize, key: [u8; 16], frontend: Arc<Frontend>) -> io::Result<Self> {
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = Worker::new(index, key);
        let task = work(arrivals, frontend, worker, load.clone());
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).stack_size(STACK);
        let handle = thread.spawn(move || {
            runtime.block_on(task);
            // Tasks that are still there end where they stand.
            runtime.shutdown_background();
        })?;
        Ok(Thread { inbox, load, handle })
    }
}

async fn work(
    mut arrivals: mpsc::UnboundedReceiver<Accepted>,
    frontend: Arc<Frontend>,
    worker: Arc<Worker>,
    load: Arc<AtomicUsize>,
) {
    while let Some(accepted) = arrivals.recv().await {
        let leaving = Leaving(load.clone());
        let served = listener::serve(accepted, frontend.clone(), worker.clone());
        tokio::spawn(async move {
            served.await;
            drop(leaving);
        });
    }
}

/// Counts a connection off, however its task ends.
struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The runtime of the process itself, for all that is not about one client.
///
/// # Errors
/// No reactor to be had.
pub fn process() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
