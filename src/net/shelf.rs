//! Buffers, and where they lie while nobody needs one.
//!
//! A [`Buffer`] owns nothing until it takes memory from its worker's [`Shelf`], and gives it back when it is empty: an
//! idle connection costs no buffer, and a busy worker allocates none.

use std::cell::RefCell;

/// What a buffer takes from the shelf, in bytes: one TLS record, and twice what a usual socket read brings.
pub const BUFFER_SIZE: usize = 16 * 1024;

/// Spare buffers of one worker, shared by its tasks.
#[derive(Debug)]
pub struct Shelf {
    spare: RefCell<Vec<Box<[u8]>>>,
    most: usize,
}

impl Shelf {
    /// An empty shelf that keeps at most `most` buffers.
    pub fn new(most: usize) -> Self {
        Shelf { spare: RefCell::default(), most }
    }

    fn take(&self) -> Box<[u8]> {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| zeroed(BUFFER_SIZE))
    }

    fn put(&self, bytes: Box<[u8]>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < self.most && bytes.len() == BUFFER_SIZE {
            spare.push(bytes);
        }
    }
}

/// Bytes that were read and not yet dealt with, and room for more.
///
/// ```text
///   |  consumed  |  filled  |  space  |
///   0          start       end    bytes.len()
/// ```
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: Place,
    end: Place,
}

/// A place in a buffer. Messages are held whole up to 1 GiB (`listen.max_message`).
type Place = u32;

impl Buffer {
    /// A buffer that owns nothing.
    pub fn empty() -> Self {
        Buffer::default()
    }

    /// Takes memory from the shelf, if it has none.
    #[inline]
    pub fn take_from(&mut self, shelf: &Shelf) {
        if self.bytes.is_empty() {
            self.bytes = shelf.take();
        }
    }

    /// Gives its memory back, if nothing is in it: to the shelf, or to the allocator if it had grown.
    #[inline]
    pub fn give_back(&mut self, shelf: &Shelf) {
        if self.is_empty() && !self.bytes.is_empty() {
            shelf.put(std::mem::take(self).bytes);
        }
    }

    /// What was read and not consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// How much that is.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether that is nothing.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where to read into, empty if the buffer is full (or owns nothing). What is filled moves to the front when less
    /// than a quarter of the buffer is left behind it.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && self.bytes.len() - (self.end as usize) < self.bytes.len() / 4 {
            self.move_to_front();
        }
        &mut self.bytes[self.end as usize..]
    }

    /// `count` bytes of [`Buffer::space`] were written. Panics if there were fewer.
    pub fn advance_filled(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end as usize, "more was read than there was space for");
        self.end += count as Place;
    }

    /// `count` bytes at the head were dealt with. Panics if there are fewer.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "more was consumed than was read");
        self.start += count as Place;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Makes room for `whole` bytes from the head on, filled ones included: for a message that must be held whole. The
    /// caller has checked `whole` against its limit.
    pub fn reserve_whole(&mut self, whole: usize) {
        if self.bytes.len() - self.start as usize >= whole {
            return;
        }
        if self.bytes.len() >= whole {
            return self.move_to_front();
        }
        // Whole multiples of the standard size; fresh zeroed pages cost nothing before they are written to.
        let mut grown = zeroed(whole.next_multiple_of(BUFFER_SIZE));
        assert!(Place::try_from(grown.len()).is_ok(), "a message of 4 GiB is not held whole");
        grown[..self.len()].copy_from_slice(self.filled());
        *self = Buffer { bytes: grown, start: 0, end: self.len() as Place };
    }

    /// Appends bytes, growing if it must.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve_whole(self.len() + bytes.len());
        self.bytes[self.end as usize..][..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as Place;
    }

    /// The same in memory from the shelf, if it has none: what a shelf lends need not be made, and zeroed, for each request.
    pub fn append(&mut self, bytes: &[u8], shelf: &Shelf) {
        if !bytes.is_empty() {
            self.take_from(shelf);
            self.extend(bytes);
        }
    }

    /// These bytes come before what was not consumed.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let behind = self.filled().to_vec();
        self.consume(behind.len());
        self.extend(bytes);
        self.extend(&behind);
    }

    fn move_to_front(&mut self) {
        self.bytes.copy_within(self.start as usize..self.end as usize, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }
}

fn zeroed(size: usize) -> Box<[u8]> {
    vec![0; size].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_buffer_owns_nothing_and_is_small() {
        assert!(size_of::<Buffer>() <= 24);
        let (shelf, mut buffer) = (Shelf::new(1), Buffer::empty());
        assert!(buffer.space().is_empty() && buffer.bytes.is_empty());
        buffer.take_from(&shelf);
        assert_eq!(buffer.space().len(), BUFFER_SIZE);
        buffer.give_back(&shelf);
        assert!(buffer.bytes.is_empty() && shelf.spare.borrow().len() == 1);
    }

    #[test]
    fn the_shelf_keeps_a_bounded_number_of_standard_buffers() {
        let shelf = Shelf::new(1);
        let mut buffers: Vec<_> = (0..3).map(|_| Buffer::empty()).collect();
        buffers.iter_mut().for_each(|buffer| buffer.take_from(&shelf));
        buffers[0].reserve_whole(BUFFER_SIZE + 1);
        buffers.iter_mut().for_each(|buffer| buffer.give_back(&shelf));
        assert_eq!(shelf.spare.borrow().len(), 1);
        buffers[0].take_from(&shelf);
        assert_eq!(buffers[0].space().len(), BUFFER_SIZE, "the grown one was not kept");
    }

    #[test]
    fn what_is_appended_lies_in_the_shelfs_memory() {
        let (shelf, mut buffer) = (Shelf::new(1), Buffer::empty());
        buffer.append(b"", &shelf);
        assert!(buffer.bytes.is_empty());
        buffer.append(b"abc", &shelf);
        assert_eq!((buffer.filled(), buffer.bytes.len()), (&b"abc"[..], BUFFER_SIZE));
        buffer.consume(3);
        buffer.give_back(&shelf);
        buffer.append(b"d", &shelf);
        assert_eq!((buffer.filled(), shelf.spare.borrow().len()), (&b"d"[..], 0));
    }

    #[test]
    fn what_is_filled_is_not_given_back() {
        let (shelf, mut buffer) = (Shelf::new(1), Buffer::empty());
        buffer.extend(b"abc");
        buffer.give_back(&shelf);
        assert_eq!(buffer.filled(), b"abc");
        buffer.consume(3);
        buffer.give_back(&shelf);
        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        let (shelf, mut buffer) = (Shelf::new(1), Buffer::empty());
        buffer.take_from(&shelf);
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for round in 0..200_000usize {
            let space = buffer.space();
            let count = space.len().min(round % 997);
            for byte in &mut space[..count] {
                *byte = next_in;
                next_in = next_in.wrapping_add(1);
            }
            buffer.advance_filled(count);
            let count = buffer.len().min(round % 1009);
            for &byte in &buffer.filled()[..count] {
                assert_eq!(byte, next_out);
                next_out = next_out.wrapping_add(1);
            }
            buffer.consume(count);
            if round % 5_000 == 0 {
                buffer.reserve_whole(buffer.len() + round % 70_000);
            }
        }
    }

    #[test]
    fn room_for_a_whole_message_keeps_what_is_there() {
        let mut buffer = Buffer::empty();
        buffer.extend(&[7; 100]);
        buffer.consume(60);
        buffer.reserve_whole(3 * BUFFER_SIZE);
        assert_eq!(buffer.filled(), [7; 40]);
        assert!(buffer.space().len() >= 3 * BUFFER_SIZE - 40);
    }
}
