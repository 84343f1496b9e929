//! Which of the vendor's few connections does a call use, and when is one free again?
//!
//! A slot is free, busy with calls, or *closing*: given up, while the vendor may still see its
//! connection. Of the latter some are *held*, as the vendor does not close them. There are never
//! more connections than slots.

/// What calls go through: one connection at most. A clone is the same one, for one more call.
pub trait Shareable: Clone + Default + Send + 'static {
    /// How many calls it is known to take at a time, now. Whatever that is, it takes one while it
    /// has none. Who makes it more than one says so: `Permit::slot_has_grown`.
    fn capacity(&self) -> usize;

    /// There are too many of its kind: what it holds is given up. No call goes through it.
    fn retire(&self);

    /// May a call go through it now, or does the vendor still see a connection of it that was given
    /// up?
    fn is_ready(&self) -> bool {
        true
    }

    /// Waits until the vendor sees none any more.
    fn ready(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// All slots.
#[derive(Debug)]
pub struct Slots<T> {
    /// Without a call. Last in, first out: the connection that was used last is the one most surely
    /// alive.
    pub free: Vec<T>,
    /// With calls, the one that has had one for longest first.
    busy: Vec<Busy<T>>,
    /// The number of the slot that was taken from `free` last.
    last: u64,
    /// How many there may be, `free`, `busy` and `closing`.
    pub most: usize,
    /// Those that were too many. The vendor may not have seen them closed yet, so they are the
    /// first to come back.
    pub(super) retired: Vec<T>,
    /// How many nobody may use until the vendor has closed their connections.
    pub closing: usize,
    /// Those of them that nobody waits for yet.
    pub unwatched: Vec<T>,
    /// How many are held: by an exchange whose time has passed, or by a connection that the vendor
    /// does not close.
    pub held: usize,
    /// Has a slot ever taken more than one call at a time? Else none is looked for that does.
    pub is_sharing: bool,
}

/// A slot that calls go through.
#[derive(Debug)]
struct Busy<T> {
    slot: T,
    number: u64,
    calls: usize,
}

impl<T: Shareable> Slots<T> {
    /// So many, which nobody has used yet.
    pub fn new(slots: u32) -> Self {
        let mut new = Self {
            free: Vec::new(),
            busy: Vec::new(),
            last: 0,
            most: 0,
            retired: Vec::new(),
            closing: 0,
            unwatched: Vec::new(),
            held: 0,
            is_sharing: false,
        };
        new.resize(slots);
        new
    }

    /// So many from now on.
    pub fn resize(&mut self, slots: u32) {
        self.most = usize::try_from(slots).unwrap_or(usize::MAX);
        let idle = self.most.saturating_sub(self.busy.len() + self.closing);
        let surplus = self.free.len().saturating_sub(idle);
        for slot in self.free.drain(..surplus) {
            // those that have been idle longest
            slot.retire();
            self.retired.push(slot);
        }
        for _ in self.free.len()..idle {
            let slot = self.retired.pop().unwrap_or_default();
            self.set_free(slot);
        }
    }

    /// No call goes through this slot. One whose connection is alive is used first.
    pub fn set_free(&mut self, slot: T) {
        if self.free.len() + self.busy.len() + self.closing >= self.most {
            slot.retire();
            self.retired.push(slot);
        } else if !slot.is_ready() {
            self.closing += 1;
            self.unwatched.push(slot);
        } else {
            self.free.push(slot);
        }
    }

    /// Can no call be made, as the vendor has not ended what every slot was given up for?
    pub fn is_stuck(&self) -> bool {
        self.held >= self.most
    }

    /// The place in `busy` of a slot that takes another call, the one with the fewest. Those that
    /// are too many since the limit was lowered take none: they are given up when their calls end.
    fn shared(&self, but: Option<u64>) -> Option<usize> {
        if !self.is_sharing {
            return None;
        }
        let kept = self.busy.iter().take(self.most).enumerate();
        kept.filter(|(_, busy)| busy.calls < busy.slot.capacity() && Some(busy.number) != but)
            .min_by_key(|(_, busy)| busy.calls)
            .map(|(place, _)| place)
    }

    /// Can one more call be made through any of them?
    pub fn has_slot(&self) -> bool {
        !self.free.is_empty() || self.shared(None).is_some()
    }

    /// A slot for one more call, other than the one with this number: one that is in use rather
    /// than one more connection.
    pub fn take(&mut self, but: Option<u64>) -> Option<(u64, T)> {
        if let Some(place) = self.shared(but) {
            let busy = &mut self.busy[place];
            busy.calls += 1;
            return Some((busy.number, busy.slot.clone()));
        }
        let slot = self.free.pop()?;
        self.last += 1;
        self.busy.push(Busy {
            slot: slot.clone(),
            number: self.last,
            calls: 1,
        });
        Some((self.last, slot))
    }

    /// A call goes through this slot no more.
    pub fn put_back(&mut self, number: u64) {
        let place = self.busy.iter().position(|busy| busy.number == number);
        let place = place.expect("a slot with calls is busy");
        self.busy[place].calls -= 1;
        if self.busy[place].calls == 0 {
            let slot = self.busy.remove(place).slot;
            self.set_free(slot);
        }
    }

    /// How many more calls the slots take now, and how many at a time.
    pub fn rooms(&self) -> (usize, usize) {
        let free = self.free.iter().map(|slot| (0, slot));
        let busy = self.busy.iter().take(self.most);
        let busy = busy.map(|busy| (busy.calls, &busy.slot));
        free.chain(busy)
            .fold((0, 0), |(room, whole), (calls, slot)| {
                let capacity = slot.capacity().max(1);
                (room + capacity.saturating_sub(calls), whole + capacity)
            })
    }
}
