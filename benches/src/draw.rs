//! Keys and which of them comes next: the same sequence in every run, and for every system that is compared.

/// Length of a key, bytes.
pub const KEY_BYTES: usize = 16;

/// `key/` and twelve digits.
#[derive(Debug, Clone)]
pub struct KeyName([u8; KEY_BYTES]);

impl KeyName {
    /// The key with this number; the lowest twelve digits count.
    pub fn of(number: u64) -> KeyName {
        let mut name = *b"key/000000000000";
        let mut rest = number;
        for digit in name[4..].iter_mut().rev() {
            *digit += u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        KeyName(name)
    }
}

impl AsRef<[u8]> for KeyName {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Scatters `0, 1, 2, ...` over `0..keys` without drawing at random.
pub fn scattered(number: u64, keys: u64) -> u64 {
    // An odd multiplier visits all residues.
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % keys.max(1)
}

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of their own for each seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// From 0 to below 1.
    #[allow(clippy::cast_precision_loss)] // 53 bits, which a float holds.
    pub fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Ranks with a Zipf distribution of exponent 0.99, as YCSB draws them: rank 0 is the most frequent one. (Gray and others,
/// "Quickly generating billion-record synthetic databases", 1994.)
#[derive(Debug, Clone)]
pub struct Zipf {
    items: u64,
    zeta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    /// Ranks below `items`, which is at least 2. Takes time proportional to it.
    pub fn new(items: u64) -> Zipf {
        let mut zipf = Zipf {
            items: 0,
            zeta: 0.0,
        };
        zipf.grow(items.max(2));
        zipf
    }

    /// There are more items now.
    #[allow(clippy::cast_precision_loss)] // Far fewer than 2^53 items.
    pub fn grow(&mut self, items: u64) {
        for item in self.items + 1..=items {
            self.zeta += (item as f64).powf(-Zipf::THETA);
        }
        self.items = self.items.max(items);
    }

    /// A rank.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // A share of the items, rounded down.
    pub fn rank(&self, dice: &mut Dice) -> u64 {
        let share = dice.share();
        let zeta_of_two = 1.0 + 0.5_f64.powf(Zipf::THETA);
        let scaled = share * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < zeta_of_two {
            return 1;
        }
        let items = self.items as f64;
        let eta = (1.0 - (2.0 / items).powf(1.0 - Zipf::THETA)) / (1.0 - zeta_of_two / self.zeta);
        let rank = items * (eta * share - eta + 1.0).powf(1.0 / (1.0 - Zipf::THETA));
        (rank as u64).min(self.items - 1)
    }

    /// An item below `items`, the frequent ones spread over all of them (YCSB's "scrambled" form).
    pub fn scrambled(&self, dice: &mut Dice) -> u64 {
        mixed(self.rank(dice)) % self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_their_numbers() {
        assert_eq!(KeyName::of(7).as_ref(), b"key/000000000007");
        assert_eq!(KeyName::of(123_456_789_012).as_ref(), b"key/123456789012");
        assert!(KeyName::of(99).as_ref() < KeyName::of(100).as_ref());
    }

    #[test]
    fn scattered_numbers_reach_most_keys_once() {
        let reached: std::collections::BTreeSet<_> = (0..100_000)
            .map(|number| scattered(number, 1_000))
            .collect();
        assert_eq!(reached.len(), 1_000);
    }

    #[test]
    fn few_items_of_a_zipf_distribution_get_most_draws() {
        let (zipf, mut dice) = (Zipf::new(10_000), Dice::new(1));
        let ranks: Vec<u64> = (0..100_000).map(|_| zipf.rank(&mut dice)).collect();
        assert!(ranks.iter().all(|rank| *rank < 10_000));
        let first = ranks.iter().filter(|rank| **rank == 0).count();
        // 1 / zeta(10,000, 0.99) is 9.9 %.
        assert!((9_000..11_000).contains(&first), "{first}");
        let hottest = ranks.iter().filter(|rank| **rank < 100).count();
        assert!((45_000..65_000).contains(&hottest), "{hottest}");
    }

    #[test]
    fn a_grown_distribution_is_that_of_the_larger_set() {
        let mut grown = Zipf::new(10);
        grown.grow(1_000);
        assert!((grown.zeta - Zipf::new(1_000).zeta).abs() < 1e-9);
    }
}
