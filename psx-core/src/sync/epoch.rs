//! The number of a round.

/// The number of a round. A thread acts in a round under the epoch that it has read at the start, so a
/// late thread cannot change the next round. It wraps after half a billion rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

impl Epoch {
    const BITS: u32 = 29;
    /// How many bits of a word remain beside the epoch.
    const LOW_BITS: u32 = u32::BITS - Self::BITS;
    /// The bits of a word that remain beside the epoch.
    pub(crate) const LOW_MASK: u32 = (1 << Self::LOW_BITS) - 1;
    /// The last one before the count wraps.
    #[cfg(all(test, not(psx_loom)))]
    pub(crate) const LAST: Self = Self((1 << Self::BITS) - 1);

    pub(crate) fn next(self) -> Self {
        let next = (self.0 + 1) % (1 << Self::BITS);
        // Zero means "never": the state of an entry that has not been summoned yet.
        Self(if next == 0 { 1 } else { next })
    }

    /// Whether this epoch follows `last` by a wrap of the count.
    pub(crate) fn has_wrapped(self, last: Self) -> bool {
        self.0 < last.0
    }

    /// `low`, which fits into [`Epoch::LOW_MASK`], tagged with the epoch.
    pub(crate) fn tag(self, low: u32) -> u32 {
        debug_assert!(low <= Self::LOW_MASK);
        self.0 << Self::LOW_BITS | low
    }

    /// The epoch that [`Epoch::tag`] has put into `word`.
    pub(crate) fn of_tagged(word: u32) -> Self {
        Self(word >> Self::LOW_BITS)
    }

    /// `low` in the lower half, tagged with the epoch in the upper half.
    pub(crate) fn tag_wide(self, low: u32) -> u64 {
        u64::from(self.0) << 32 | u64::from(low)
    }

    /// Whether `wide` is tagged with this epoch.
    pub(crate) fn matches(self, wide: u64) -> bool {
        (wide >> 32) as u32 == self.0
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    #[test]
    fn epochs_wrap_past_never() {
        assert_eq!(Epoch::LAST.next(), Epoch(1));
        assert!(Epoch::LAST.next().has_wrapped(Epoch::LAST) && !Epoch(2).has_wrapped(Epoch(1)));
        assert_ne!(Epoch::default().next(), Epoch::default());
    }

    #[test]
    fn a_tag_is_read_back() {
        assert_eq!(Epoch::of_tagged(Epoch::LAST.tag(Epoch::LOW_MASK)), Epoch::LAST);
    }
}
