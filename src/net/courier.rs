//! Letters with descriptors between two processes, over a Unix-domain socket that nobody else has.
//!
//! ```text
//!   Int32 length, with the descriptors beside it | that many bytes
//! ```
//! The kernel never merges what comes with descriptors with what came before, so that the head of a letter has its own.
//!
//! Source: `unix(7)`, SCM_RIGHTS.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors of one letter (the kernel takes 253).
pub const MAX_DESCRIPTORS: usize = 64;

/// The longest letter, in bytes: 10,000 prepared statements of 6 KiB each. Programs of other versions have the same limit.
pub const MAX_LETTER: usize = 64 * 1024 * 1024;

const TOO_LONG: &str = "a letter that is too long";

/// One end of the connection.
#[derive(Debug)]
pub struct Courier(UnixStream);

/// What has come.
#[derive(Debug)]
pub struct Letter {
    /// Its text.
    pub body: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Courier {
    /// Our end of a connection.
    ///
    /// # Errors
    /// What registering it says.
    pub fn new(socket: StdUnixStream) -> io::Result<Courier> {
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Courier)
    }

    /// Sends a letter.
    ///
    /// # Cancel safety
    /// None: a part of it may have been sent.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: nothing has been sent of a letter that is too long. Else what the socket says.
    pub async fn send(&self, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if body.len() > MAX_LETTER {
            return Err(io::Error::new(ErrorKind::InvalidInput, TOO_LONG));
        }
        let head = (body.len() as u32).to_be_bytes();
        let sent = self.0.async_io(Interest::WRITABLE, || send_head(&self.0, &head, descriptors)).await?;
        self.send_all(&head[sent..]).await?;
        self.send_all(body).await
    }

    async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next letter; `None` when the other end is closed.
    ///
    /// # Cancel safety
    /// None but before the first byte of a letter: for a task of its own.
    ///
    /// # Errors
    /// What the socket says; an end within a letter; a letter that is too long.
    pub async fn receive(&self) -> io::Result<Option<Letter>> {
        let mut head = [0; 4];
        let (count, descriptors) =
            self.0.async_io(Interest::READABLE, || receive_head(&self.0, &mut head)).await?;
        if count == 0 {
            return Ok(None);
        }
        self.receive_all(&mut head[count..]).await?;
        let length = u32::from_be_bytes(head) as usize;
        if length > MAX_LETTER {
            return Err(io::Error::new(ErrorKind::InvalidData, TOO_LONG));
        }
        let mut body = vec![0; length];
        self.receive_all(&mut body).await?;
        Ok(Some(Letter { body, descriptors }))
    }

    /// Ends the conversation in both directions: what was sent before still arrives.
    pub fn hang_up(&self) {
        // It has ended already.
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    async fn receive_all(&self, mut space: &mut [u8]) -> io::Result<()> {
        while !space.is_empty() {
            self.0.readable().await?;
            match self.0.try_read(space) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => space = &mut space[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn send_head(socket: impl AsFd, head: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "too many descriptors in one letter"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(head)], &mut beside, SendFlags::NOSIGNAL)?)
}

fn receive_head(socket: impl AsFd, head: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(head)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = beside.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((received.bytes, descriptors.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn pair() -> (Courier, Courier) {
        let (one, other) = StdUnixStream::pair().unwrap();
        (Courier::new(one).unwrap(), Courier::new(other).unwrap())
    }

    #[tokio::test]
    async fn letters_come_whole_and_with_their_own_descriptors() {
        let (here, there) = pair();
        let (mut speaker, listener) = StdUnixStream::pair().unwrap();
        let long = vec![7; 3_000_000];
        let sending = async {
            here.send(b"plain", &[]).await.unwrap();
            here.send(&long, &[listener.as_fd()]).await.unwrap();
            here.send(b"", &[listener.as_fd(), listener.as_fd()]).await.unwrap();
            drop(here);
        };
        let receiving = async {
            let mut letters = Vec::new();
            while let Some(letter) = there.receive().await.unwrap() {
                letters.push(letter);
            }
            letters
        };
        let ((), letters) = tokio::join!(sending, receiving);
        let lengths: Vec<_> =
            letters.iter().map(|letter| (letter.body.len(), letter.descriptors.len())).collect();
        assert_eq!(lengths, [(5, 0), (3_000_000, 1), (0, 2)]);
        drop(listener);
        speaker.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        let copy = letters.into_iter().nth(1).unwrap().descriptors.remove(0);
        StdUnixStream::from(copy).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }

    #[tokio::test]
    async fn nothing_is_sent_of_a_letter_that_is_too_long() {
        let (here, there) = pair();
        let error = here.send(&vec![b'x'; MAX_LETTER + 1], &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        here.send(b"short", &[]).await.unwrap();
        assert_eq!(there.receive().await.unwrap().unwrap().body, b"short");
        here.send(b"last", &[]).await.unwrap();
        here.hang_up();
        assert_eq!(there.receive().await.unwrap().unwrap().body, b"last");
        assert!(there.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_end_within_a_letter_is_an_error() {
        let (here, there) = pair();
        here.send_all(&[0, 0, 0, 9, 1]).await.unwrap();
        drop(here);
        assert_eq!(there.receive().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let (here, there) = pair();
        here.send_all(&[0xff; 4]).await.unwrap();
        assert!(there.receive().await.is_err());
    }
}
