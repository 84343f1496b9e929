//! Numbers that look random and are the same in every run: the world, and which calls fail
//! (`SplitMix64`).

#[derive(Debug)]
pub(super) struct Generator(u64);

impl Generator {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, or 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Less than `bound`, or 0.
    pub(super) fn small(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(bound.into())).expect("less than a u32")
    }

    /// One of them; there must be one.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = self.below(items.len() as u64);
        &items[usize::try_from(index).expect("less than a length")]
    }

    /// True as often as `rate` says, between never (0) and always (1).
    pub(super) fn chance(&mut self, rate: f64) -> bool {
        f64::from(self.small(1_000_000)) < rate * 1_000_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chance_is_never_always_or_about_what_it_says() {
        let mut generator = Generator::new(1);
        let mut hits = |rate| (0..1_000).filter(|_| generator.chance(rate)).count();
        assert_eq!(hits(0.0), 0);
        assert_eq!(hits(1.0), 1_000);
        assert!((200..300).contains(&hits(0.25)));
    }
}
