//! What a queue or a task may be called.

/// The longest name, in bytes: with the prefix `pgq_` it still is a NOTIFY channel (63).
pub const MAX_NAME: usize = 59;

/// Is this a name: 1 to 59 bytes of `A-Za-z0-9_.-`?
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The name of a queue as a number that fits shared memory (FNV-1a, 64 bits). It is only ever a hint:
/// two queues of one number cost a spurious look. Never zero, which marks an empty place.
pub fn hash(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash.max(1)
}

/// The same in 32 bits, for the tag of a lock.
pub fn fold(name: &str) -> u32 {
    let hash = hash(name);
    u32::try_from((hash ^ (hash >> 32)) & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "mail", "A-b_c.9", &"x".repeat(59)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", " ", "a b", "käse", "a/b", "a\"b", "a;b", &"x".repeat(60)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn different_names_differ() {
        let names: std::collections::HashSet<u64> = (0..10_000).map(|n| hash(&format!("queue{n}"))).collect();
        assert_eq!(names.len(), 10_000);
    }
}
