//! Who waits for standard error? Only a thread of its own: lines are handed over to it, and it
//! writes many at a time.
//!
//! What waits is bounded, and what finds no room is dropped and counted. The lines keep their
//! order, so there is one queue with two bounds: what belongs to commands has room when other lines
//! no longer have.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{mem, thread};

use tracing::warn;

/// The target of lines about commands: no level drops them, and they have room when others have
/// none.
pub const COMMANDS: &str = "linksfield_gateway::commands";

/// Between two writes. A line of an idle process is written at once; at load there is one write for
/// all of this time.
const PAUSE: Duration = Duration::from_millis(5);

/// How many bytes may wait when a line comes, that line included.
#[derive(Debug, Clone, Copy)]
pub struct Bound(u64);

impl Bound {
    /// Some 2,000 lines.
    const USUAL: Self = Self(1 << 20);
    const COMMANDS: Self = Self(4 << 20);

    /// That of the lines of this target.
    pub fn of(target: &str) -> Self {
        if target == COMMANDS {
            Self::COMMANDS
        } else {
            Self::USUAL
        }
    }
}

/// Room that is kept after a burst.
const KEPT_ROOM: usize = 256 << 10;

/// Lines that are to be written.
#[derive(Debug)]
pub struct Lines {
    state: Mutex<LinesState>,
    /// There is something for the writer to do.
    work: Condvar,
    /// Something has been written.
    progress: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct LinesState {
    waiting: Vec<u8>,
    /// Bytes of all lines so far that were taken, and of those that the writer is done with.
    taken: u64,
    done: u64,
    /// Does the writer wait for lines, not only for the pause to end?
    is_idle: bool,
    /// No more pauses: the process is about to end.
    is_hurried: bool,
}

impl Lines {
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(LinesState {
                waiting: Vec::new(),
                taken: 0,
                done: 0,
                is_idle: false,
                is_hurried: false,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes a line with its end, or counts it as dropped.
    pub fn add(&self, line: &[u8], Bound(bound): Bound) {
        let mut state = self.state();
        let taken = state.taken + line.len() as u64;
        if taken - state.done > bound {
            drop(state);
            return self.lose(1);
        }
        state.taken = taken;
        state.waiting.extend_from_slice(line);
        let is_idle = mem::take(&mut state.is_idle);
        drop(state);
        if is_idle {
            self.work.notify_one();
        }
    }

    /// Counts lines that are not written.
    pub fn lose(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// How many lines have been dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines of before are written, at most for so long.
    pub fn flush(&self, at_most: Duration) {
        let mut state = self.state();
        state.is_hurried = true;
        self.work.notify_one();
        let taken = state.taken;
        let _ = self
            .progress
            .wait_timeout_while(state, at_most, |state| state.done < taken);
    }

    /// Writes the lines, for as long as the process lives.
    pub fn write_to(&self, out: impl Write) {
        let mut sink = Sink { out, is_cut: false };
        let mut batch = Vec::new();
        let mut told = 0;
        loop {
            self.next(&mut batch);
            let written = sink.write(&batch);
            self.done_with(&mut batch);
            match written {
                Ok(()) => told = self.tell_from(told),
                Err(Lost(lines)) => self.lose(lines),
            }
            self.pause();
        }
    }

    /// The lines that wait, when there are some.
    fn next(&self, batch: &mut Vec<u8>) {
        let nothing_to_do = |state: &mut LinesState| {
            state.is_idle = state.waiting.is_empty();
            state.is_idle
        };
        let state = self.work.wait_while(self.state(), nothing_to_do);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        mem::swap(batch, &mut state.waiting);
    }

    fn done_with(&self, batch: &mut Vec<u8>) {
        self.state().done += batch.len() as u64;
        self.progress.notify_all();
        batch.clear();
        batch.shrink_to(KEPT_ROOM);
    }

    /// A line where lines are missing. Not before something could be written: on a full disk it
    /// would be lost too, and be told of in its turn.
    fn tell_from(&self, told: u64) -> u64 {
        let dropped = self.dropped();
        if dropped > told {
            let lines = dropped - told;
            warn!(target: COMMANDS, lines, "log lines were dropped"); // at every level, and when there is little room
        }
        dropped
    }

    fn pause(&self) {
        let _ = self
            .work
            .wait_timeout_while(self.state(), PAUSE, |state| !state.is_hurried);
    }

    /// What waits, as text.
    #[cfg(test)]
    pub fn taken(&self) -> String {
        String::from_utf8(self.state().waiting.clone()).expect("lines are text")
    }

    fn state(&self) -> MutexGuard<'_, LinesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many lines could not be written.
struct Lost(u64);

struct Sink<W> {
    out: W,
    /// Was the last line left unfinished?
    is_cut: bool,
}

impl<W: Write> Sink<W> {
    fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        if self.is_cut {
            self.write_all(b"\n").map_err(|_| Lost(ends(lines)))?;
        }
        self.write_all(lines).map_err(|rest| Lost(ends(rest)))
    }

    /// All of it; else what is left.
    fn write_all<'a>(&mut self, mut rest: &'a [u8]) -> Result<(), &'a [u8]> {
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written @ 1..) => {
                    self.is_cut = rest[written - 1] != b'\n';
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares the pipe does not want to wait for it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Ok(0) | Err(_) => return Err(rest),
            }
        }
        Ok(())
    }
}

/// How many lines end in here.
fn ends(lines: &[u8]) -> u64 {
    lines.split(|byte| *byte == b'\n').count() as u64 - 1
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_finds_no_room_is_dropped_and_commands_have_more_of_it() {
        let line = [b'x'; 1 << 10];
        let lines = Lines::new();
        for (target, taken) in [("hyper", 1 << 10), (COMMANDS, 3 << 10), ("hyper", 0)] {
            let dropped = lines.dropped();
            for _ in 0..5 << 10 {
                lines.add(&line, Bound::of(target));
            }
            let dropped = lines.dropped() - dropped;
            assert_eq!((5 << 10) - dropped, taken, "{target}");
        }
        assert_eq!(lines.state().waiting.len(), 4 << 20);
    }

    /// Hands over what is written, each time that somebody asks for it.
    struct Reader(mpsc::SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_come_meanwhile_are_written_at_once_and_a_flush_waits_for_them() {
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        let (out, written) = mpsc::sync_channel(0);
        thread::spawn(|| lines.write_to(Reader(out)));
        lines.add(b"1\n", Bound::USUAL);
        while !lines.state().waiting.is_empty() {
            thread::yield_now(); // until the writer has the first
        }
        for line in [b"2\n", b"3\n"] {
            lines.add(line, Bound::USUAL);
        }
        lines.flush(Duration::ZERO); // nobody reads
        let flushed = thread::spawn(|| lines.flush(Duration::MAX));
        assert_eq!(written.recv().unwrap(), b"1\n");
        assert!(!flushed.is_finished());
        assert_eq!(written.recv().unwrap(), b"2\n3\n");
        flushed.join().unwrap();
    }

    /// Takes so many bytes, then says this.
    struct Disk {
        content: Vec<u8>,
        room: usize,
        then: ErrorKind,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(self.then.into());
            }
            let written = bytes.len().min(self.room);
            self.room -= written;
            self.content.extend_from_slice(&bytes[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_spoils_no_other_line() {
        let rows = [
            (0, ErrorKind::StorageFull, 3, "dd\n"),
            (3, ErrorKind::StorageFull, 2, "aa\ndd\n"),
            (4, ErrorKind::StorageFull, 2, "aa\nb\ndd\n"),
            (4, ErrorKind::Interrupted, 0, "aa\nbb\ncc\ndd\n"),
            (4, ErrorKind::WouldBlock, 0, "aa\nbb\ncc\ndd\n"),
        ];
        for (room, then, lost, content) in rows {
            let mut sink = Sink {
                out: Disk {
                    content: Vec::new(),
                    room,
                    then,
                },
                is_cut: false,
            };
            let lines = sink.write(b"aa\nbb\ncc\n");
            assert_eq!(lines.map_or_else(|Lost(lines)| lines, |()| 0), lost);
            assert!(sink.write(b"dd\n").is_ok());
            assert_eq!(sink.out.content, content.as_bytes(), "{room} {then}");
        }
    }
}
