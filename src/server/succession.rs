//! One process takes over from another: the listening sockets first, then the clients, one by one.
//!
//! ```text
//!   old                                       new
//!    |-- starts it; Hello + listening sockets -->|  reads the configuration, finds out what its servers are
//!    |<------------------ Ready -----------------|  (its end, or too late: the old one goes on)
//!    |------------------- Go ------------------->|  accepts
//!    |-- Client + its socket, as each is at rest->|  goes on with it
//!    |<----------------- Cancel -----------------|  for a client that is not there yet
//!    |-- end
//! ```
//! Both run on a private pair of sockets; the new one finds its end as its standard input, so that no descriptor's number has
//! to be believed. If the new process ends before the old one has, the old one accepts again and keeps whom it has. If it lives,
//! but takes no clients any more, it has what it has: the old one drains.

use super::sockets::{FileOf, Inherited, Sockets};
use crate::config::values::duration_text;
use crate::frontend::passage::{Passenger, Passport};
use crate::net::Courier;
use crate::net::courier::Letter;
use crate::session::luggage::{self, Text};
use crate::wire::ClientKey;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;

/// The form of what is said here. Raised whenever it changes: processes of different forms do not succeed each other.
const FORM: u32 = 1;

/// How long the new process may take until it can serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the new process may take to read one client's letter.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process that has closed its connection may take to end, so that it can be said how it did.
pub(super) const LAST_BREATHS: Duration = Duration::from_secs(1);

/// How often it is looked whether it has.
const LAST_BREATH: Duration = Duration::from_millis(20);

/// The argument by which a process knows that it takes over.
pub const TAKE_OVER: &str = "--take-over";

/// What is said.
#[derive(Serialize, Deserialize)]
enum Word {
    Hello(Hello),
    /// In which form it takes clients.
    Ready {
        luggage: u32,
    },
    Go,
    Client(Box<Passport>),
    Cancel {
        pid: i32,
        secret: Text,
    },
}

/// [`Word::Client`] of one who is kept until it is said.
#[derive(Serialize)]
enum Said<'a> {
    Client(&'a Passport),
}

/// What the new process must know before it begins.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    form: u32,
    /// The secrets of the process: what is derived from them (stored keys, tokens, names of statements) stays the same.
    secrets: Text,
    /// The number that was given to a client last.
    pub(super) last_id: u64,
    /// Whether the Unix-domain socket's file is left to it.
    leaves_file: bool,
    /// What operators have said, and what holds still.
    pub(super) standing: StandingOrders,
}

/// What operators have taken out of service, and what has been primary.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct StandingOrders {
    /// Databases that are paused.
    pub(super) paused: Vec<String>,
    /// Those that nobody has asked for yet are paused, too.
    #[serde(default)]
    pub(super) all_paused: bool,
    /// But these.
    #[serde(default)]
    pub(super) resumed: Vec<String>,
    /// Databases that take no new clients.
    pub(super) disabled: Vec<String>,
    /// Servers by section and address.
    pub(super) detached: Vec<(String, String)>,
    /// By section: the database cluster's identifier, and the primary's timeline. A primary of before is none afterwards either.
    #[serde(default)]
    pub(super) timelines: Vec<(String, Option<u64>, u32)>,
    /// By section and address: the timeline on which a server was primary beside that one.
    #[serde(default)]
    pub(super) rivals: Vec<(String, String, u32)>,
}

/// The process that takes over, as the old one sees it. Dropped before it was let go, it is ended.
pub(super) struct Successor {
    courier: Courier,
    child: Child,
    is_let_go: bool,
    /// Whether it takes clients, too.
    pub(super) takes_clients: bool,
}

/// The process that is taken over from, as the new one sees it.
pub(super) struct Predecessor {
    courier: Courier,
}

impl Successor {
    /// Starts the program anew and waits until it can serve.
    ///
    /// # Cancel safety
    /// Dropped, it ends the new process.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn call(
        file: &Path,
        secrets: &[u8],
        last_id: u64,
        standing: StandingOrders,
        sockets: &Sockets,
    ) -> Result<Successor, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("no pair of sockets: {error}"))?;
        let child = spawn(file, theirs).map_err(|error| format!("it cannot be started: {error}"))?;
        let courier = Courier::new(ours).map_err(|error| error.to_string())?;
        let mut successor = Successor { courier, child, is_let_go: false, takes_clients: false };
        let hello = Hello {
            form: FORM,
            secrets: Text::of(secrets),
            last_id,
            leaves_file: sockets.file.is_some(),
            standing,
        };
        let answer = async {
            send(&successor.courier, &Word::Hello(hello), &sockets.descriptors()).await?;
            receive(&successor.courier).await
        };
        let answer = tokio::time::timeout(START_TIMEOUT, answer).await;
        match answer {
            Ok(Ok(Some((Word::Ready { luggage }, _)))) => {
                successor.takes_clients = luggage == luggage::FORM;
                Ok(successor)
            }
            Ok(Ok(Some(_))) => Err("it says what it should not".into()),
            Ok(Ok(None)) | Ok(Err(_)) => Err(successor.epitaph().await),
            Err(_) => Err(format!("it was not ready within {}", duration_text(START_TIMEOUT))),
        }
    }

    /// Lets it serve. From now on it is on its own.
    ///
    /// # Errors
    /// It is gone.
    pub(super) async fn let_go(&mut self) -> io::Result<()> {
        send(&self.courier, &Word::Go, &[]).await?;
        self.is_let_go = true;
        Ok(())
    }

    /// Hands a client over, who is to be kept until then.
    ///
    /// # Cancel safety
    /// None: nothing else can be said afterwards.
    ///
    /// # Errors
    /// The process is gone, or takes nobody any more; nothing else can be said.
    pub(super) async fn take(&self, passenger: &Passenger) -> io::Result<()> {
        let said = Said::Client(&passenger.passport);
        let sockets = [passenger.socket.as_fd()];
        match tokio::time::timeout(TAKE_TIMEOUT, send(&self.courier, &said, &sockets)).await {
            // Who has that much does not come here; if he does, it is not the other process's fault.
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::warn!(%error, "a client could not be handed over");
                Ok(())
            }
            Ok(sent) => sent,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The next cancel request for a client of ours; `None` when the process is gone.
    pub(super) async fn cancel(&self) -> Option<ClientKey> {
        loop {
            match receive(&self.courier).await {
                Ok(Some((Word::Cancel { pid, secret }, _))) => {
                    return Some(ClientKey::new(pid, &secret.bytes()));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says no more to it, and hears no more.
    pub(super) fn hang_up(&self) {
        self.courier.hang_up();
    }

    /// Waits until it has ended; its exit status.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            tokio::time::sleep(LAST_BREATH).await;
        }
    }

    /// What is said of a process that has closed the connection.
    async fn epitaph(&mut self) -> String {
        match tokio::time::timeout(LAST_BREATHS, self.ended()).await {
            Ok(status) => format!("it has ended ({status}); its own log says why"),
            Err(_) => "it has closed the connection".into(),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.is_let_go {
            // If it has ended, nothing of it stays.
            let _ = self.child.try_wait();
        } else {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Predecessor {
    /// The process that has started this one. Our end of the connection is the standard input, which is nothing else
    /// afterwards.
    ///
    /// # Errors
    /// There is none, or it does not say what it should.
    pub(super) async fn meet() -> Result<(Predecessor, Hello, Inherited), String> {
        let socket = || -> io::Result<OwnedFd> {
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            Ok(socket)
        };
        let socket = socket().map_err(|error| format!("the standard input: {error}"))?;
        let courier = Courier::new(UnixStream::from(socket)).map_err(|error| error.to_string())?;
        let heard = receive(&courier).await.map_err(|error| error.to_string())?;
        let Some((Word::Hello(hello), letter)) = heard else {
            return Err("it does not say who it is".into());
        };
        if hello.form != FORM {
            return Err(format!("it speaks form {}, and this program {FORM}", hello.form));
        }
        let file = if hello.leaves_file { FileOf::Predecessor } else { FileOf::Others };
        Ok((Predecessor { courier }, hello, Inherited::new(letter, file)))
    }

    /// Says that we can serve, and waits until we shall.
    ///
    /// # Errors
    /// The process before goes on, or is gone.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let gone = |error: io::Error| error.to_string();
        send(&self.courier, &Word::Ready { luggage: luggage::FORM }, &[]).await.map_err(gone)?;
        match receive(&self.courier).await.map_err(gone)? {
            Some((Word::Go, _)) => Ok(()),
            _ => Err("the process before goes on".into()),
        }
    }

    /// Takes clients on until the process before ends or breaks off, and passes on cancel requests meanwhile. Then the
    /// connection is closed, so that the other side notices, and no cancel request is kept for it any more.
    pub(super) async fn hear_out(
        self,
        mut cancelled: mpsc::UnboundedReceiver<ClientKey>,
        mut board: impl FnMut(Passenger),
    ) {
        let coming = async {
            while let Some(passenger) = self.client().await {
                board(passenger);
            }
        };
        let asking = async {
            while let Some(key) = cancelled.recv().await {
                self.cancel(&key).await;
            }
        };
        tokio::select! {
            () = coming => {}
            () = asking => {}
        }
    }

    /// The next client; `None` when the process before has ended.
    ///
    /// # Cancel safety
    /// None: a client may be lost.
    async fn client(&self) -> Option<Passenger> {
        loop {
            match receive(&self.courier).await {
                Ok(Some((Word::Client(passport), sockets))) => match sockets.into_iter().next() {
                    Some(socket) => return Some(Passenger { socket, passport }),
                    None => tracing::warn!("a client was handed over without its connection"),
                },
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    tracing::warn!(%error, "the process before broke off");
                    return None;
                }
            }
        }
    }

    /// Passes on a cancel request.
    async fn cancel(&self, key: &ClientKey) {
        let word = Word::Cancel { pid: key.pid, secret: Text::of(key.secret()) };
        // Gone: then so is its client.
        let _ = send(&self.courier, &word, &[]).await;
    }
}

impl Hello {
    /// The secrets of the process.
    pub(super) fn secrets(&self) -> Option<[u8; super::SECRETS]> {
        self.secrets.bytes().try_into().ok()
    }
}

async fn send(courier: &Courier, word: &impl Serialize, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    courier.send(&serde_json::to_vec(word)?, sockets).await
}

async fn receive(courier: &Courier) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
    let Some(Letter { body, descriptors }) = courier.receive().await? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

/// The program under the name by which we were started: what stands there now, not what stood there then.
fn spawn(file: &Path, theirs: UnixStream) -> io::Result<Child> {
    let program =
        std::env::args_os().next().map_or_else(std::env::current_exe, |name: OsString| Ok(name.into()))?;
    Command::new(program)
        .args(["serve", TAKE_OVER, "--config"])
        .arg(file)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // They are meant for one process.
        .env_remove("WATCHDOG_PID")
        .env_remove("LISTEN_FDNAMES")
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Courier, Courier) {
        let (one, other) = UnixStream::pair().unwrap();
        (Courier::new(one).unwrap(), Courier::new(other).unwrap())
    }

    #[tokio::test]
    async fn a_process_before_that_ends_or_talks_nonsense_is_done_with() {
        for nonsense in [None, Some(b"nonsense")] {
            let (old, new) = pair();
            let (cancels, cancelled) = mpsc::unbounded_channel();
            let hearing = Predecessor { courier: new }.hear_out(cancelled, |_| panic!("nobody has come"));
            let ending = async {
                let Some(nonsense) = nonsense else { return drop(old) };
                old.send(nonsense, &[]).await.unwrap();
                assert!(old.receive().await.unwrap().is_none(), "the other side has noticed");
            };
            tokio::join!(hearing, ending);
            assert!(cancels.is_closed(), "nothing is kept");
        }
    }
}
