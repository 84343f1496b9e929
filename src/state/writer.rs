//! Who writes? One thread, one thing after the other, so that a disk that hangs holds up nobody
//! else.
//!
//! The thread is not one of the runtime's: the end of the process waits for those, and would hang
//! with the disk. Whoever wants something written waits for it for a second at most. What was given
//! up before its turn is not written; what has begun is finished, whoever waits, and what was asked
//! for later comes later. So the queue is bounded by those who wait, by the removals of what they
//! have given up, and by the ends of commands that were under way when a hang began.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::WriteError;
use super::record::{Calls, Change};

/// So long does anybody wait for the disk. A write that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is to be written. It is asked for when it is its turn, and so as new as can be.
pub(super) enum Work {
    /// All of these changes, or none.
    Keys(Box<dyn FnOnce() -> Vec<Change> + Send>),
    /// These calls and no others, and this correction.
    Calls(Box<dyn FnOnce() -> (Calls, i64) + Send>),
}

type Tell = oneshot::Sender<Result<(), WriteError>>;

/// The thread, as others see it. The last clone ends it.
#[derive(Clone)]
pub(super) struct Writer(Arc<Handle>);

struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    has_failed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// When the write under way began.
    began: Option<Instant>,
    hangs: Hangs,
    /// Nothing more is to come.
    is_closed: bool,
    /// The thread has ended.
    is_over: bool,
}

struct Job {
    work: Work,
    /// Who waits for it; of changes that must be written though nobody waits, nobody.
    tell: Vec<Tell>,
    is_awaited: bool,
}

/// How often the disk has hung since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hangs {
    /// The one of now included.
    pub begun: u64,
    /// Those that have ended.
    pub ended: u64,
    /// How long the last one of these has lasted.
    pub lasted: Duration,
}

impl Writer {
    /// `carry_out` does one work after the other, on the thread; it is dropped when the thread
    /// ends.
    pub fn start(
        carry_out: impl FnMut(Work) -> Result<(), WriteError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_thread = shared.clone();
        thread::Builder::new()
            .name("state".into())
            .spawn(move || of_thread.run(carry_out))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Waits until it is written, in its turn.
    pub async fn write(&self, work: Work) -> Result<(), WriteError> {
        let (tell, told) = oneshot::channel();
        self.0.0.push(work, Some(tell));
        match timeout(PATIENCE, told).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(WriteError::Failed("it has ended".into())),
            Err(_) => Err(WriteError::Late), // and from here on it is given up
        }
    }

    /// Will be written, whoever waits.
    pub fn write_later(&self, work: Work) {
        self.0.0.push(work, None);
    }

    /// Has a write been under way for too long?
    pub fn hangs(&self) -> bool {
        self.0.0.lock().hangs()
    }

    /// Does one hang, or has the last one failed?
    pub fn is_failing(&self) -> bool {
        self.has_failed() || self.hangs()
    }

    /// Has the last one failed?
    pub fn has_failed(&self) -> bool {
        self.0.0.has_failed.load(Ordering::Relaxed)
    }

    /// How often a write has hung.
    pub fn count_hangs(&self) -> Hangs {
        let queue = self.0.0.lock();
        Hangs {
            begun: queue.hangs.ended + u64::from(queue.hangs()),
            ..queue.hangs
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics between two halves of a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, work: Work, tell: Option<Tell>) {
        let mut queue = self.lock();
        let is_of_calls = |job: &&mut Job| matches!(job.work, Work::Calls(_));
        if matches!(work, Work::Calls(_))
            && let Some(same) = queue.jobs.iter_mut().find(is_of_calls)
        {
            // It will be as new as this one, when its turn comes.
            same.tell.retain(|tell| !tell.is_closed());
            same.tell.extend(tell);
            return;
        }
        let is_awaited = tell.is_some();
        queue.jobs.push_back(Job {
            work,
            tell: tell.into_iter().collect(),
            is_awaited,
        });
        self.changed.notify_all();
    }

    fn run(&self, mut carry_out: impl FnMut(Work) -> Result<(), WriteError>) {
        while let Some(job) = self.next() {
            let done = carry_out(job.work);
            self.has_failed.store(done.is_err(), Ordering::Relaxed);
            self.lock().end();
            for tell in job.tell {
                let _ = tell.send(done.clone());
            }
        }
        drop(carry_out); // closes what it writes to
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// The next one, which begins now; none once nothing more is to come.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            match queue.jobs.pop_front() {
                Some(job) if job.is_given_up() => {}
                Some(job) => {
                    queue.began = Some(Instant::now());
                    return Some(job);
                }
                None if queue.is_closed => return None,
                None => {
                    let woken = self.changed.wait(queue);
                    queue = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Job {
    fn is_given_up(&self) -> bool {
        self.is_awaited && self.tell.iter().all(Tell::is_closed)
    }
}

impl Queue {
    fn hangs(&self) -> bool {
        self.began.is_some_and(|began| began.elapsed() > PATIENCE)
    }

    /// The write under way has ended.
    fn end(&mut self) {
        if let Some(began) = self.began.take()
            && began.elapsed() > PATIENCE
        {
            self.hangs.ended += 1;
            self.hangs.lasted = began.elapsed();
        }
    }
}

impl Drop for Handle {
    /// What is left is written, and the file is free for the next process then; but nobody waits
    /// for a disk that hangs.
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        self.0.changed.notify_all();
        let until = Instant::now() + PATIENCE;
        while !queue.is_over && !queue.hangs() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.0.changed.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::state::record::{Record, State, Time};

    /// A disk that writes one thing for each that it is told to.
    struct Disk {
        go_on: mpsc::Sender<()>,
        begun: mpsc::Receiver<String>,
    }

    fn writer() -> (Writer, Disk) {
        let (go_on, may_go_on) = mpsc::channel();
        let (tell, begun) = mpsc::channel();
        let writer = Writer::start(move |work| {
            let work = match work {
                Work::Keys(changes) => {
                    let changes: Vec<_> = changes().iter().map(told).collect();
                    changes.join(" ")
                }
                Work::Calls(calls) => format!("{:?}", calls()),
            };
            let _ = tell.send(work);
            let _ = may_go_on.recv(); // or the test is over
            Ok(())
        });
        (writer.unwrap(), Disk { go_on, begun })
    }

    fn told(change: &Change) -> String {
        match change {
            Change::Put(id, _) => format!("+{}", id[0]),
            Change::Remove(id) => format!("-{}", id[0]),
        }
    }

    fn at(number: u64) -> Time {
        Time {
            number,
            is_confirmed: true,
        }
    }

    fn put(id: u8) -> Work {
        let record = Record {
            since: at(0),
            fingerprint: [0; 32],
            state: State::Running,
        };
        Work::Keys(Box::new(move || vec![Change::Put([id; 32], record)]))
    }

    fn remove(id: u8) -> Work {
        Work::Keys(Box::new(move || vec![Change::Remove([id; 32])]))
    }

    fn calls(number: u32) -> Work {
        Work::Calls(Box::new(move || ([(at(7), number)].into(), 0)))
    }

    #[tokio::test]
    async fn what_was_given_up_is_not_written_but_what_had_begun_is_and_then_removed() {
        let (writer, disk) = writer();
        writer.write_later(put(1));
        assert_eq!(disk.begun.recv().unwrap(), "+1");
        let waiting = writer.write(put(2)).await;
        assert!(matches!(waiting, Err(WriteError::Late)));
        writer.write_later(remove(1));
        writer.write_later(remove(2));
        for _ in 0..3 {
            disk.go_on.send(()).unwrap();
        }
        drop(writer);
        let begun: Vec<_> = disk.begun.iter().collect();
        assert_eq!(begun, ["-1", "-2"]);
    }

    #[tokio::test]
    async fn a_hang_is_told_while_it_lasts_and_counted_when_it_ends() {
        let (writer, disk) = writer();
        writer.write_later(put(1));
        disk.begun.recv().unwrap();
        assert!(!writer.is_failing());
        assert!(writer.write(put(2)).await.is_err(), "a second has passed");
        assert!(writer.is_failing());
        assert_eq!(writer.count_hangs().begun, 1);
        assert_eq!(writer.count_hangs().ended, 0);
        disk.go_on.send(()).unwrap();
        disk.go_on.send(()).unwrap();
        writer.write(put(3)).await.unwrap();
        assert!(!writer.is_failing());
        let hangs = writer.count_hangs();
        assert_eq!((hangs.begun, hangs.ended), (1, 1));
        assert!(hangs.lasted >= PATIENCE);
    }

    #[tokio::test]
    async fn of_calls_that_wait_only_the_latest_are_written_and_all_who_wait_are_told() {
        let (writer, disk) = writer();
        writer.write_later(put(1));
        assert_eq!(disk.begun.recv().unwrap(), "+1");
        let release = async {
            disk.go_on.send(()).unwrap();
            disk.go_on.send(()).unwrap();
        };
        let (first, second, ()) =
            tokio::join!(writer.write(calls(1)), writer.write(calls(1)), release);
        assert!(first.is_ok() && second.is_ok());
        drop(writer);
        assert_eq!(disk.begun.iter().count(), 1);
    }

    #[test]
    fn nobody_waits_at_the_end_for_a_disk_that_hangs() {
        let (writer, disk) = writer();
        writer.write_later(put(1));
        disk.begun.recv().unwrap();
        let began = Instant::now();
        drop(writer);
        assert!(began.elapsed() >= PATIENCE / 2, "it may yet be done");
        drop(disk);
    }
}
