//! The normalization table inside a `SentencePiece` model: which strings are replaced by which.
//!
//! Layout: the size of a double array in bytes (u32, little-endian), the array (u32 each), then the
//! replacements, each ended by a zero byte. The array is a trie over bytes as the library Darts-clone
//! builds it. One unit of it holds
//!
//! ```text
//! bits 0–7   label: the byte that leads here     bit 8   the key may end here
//! bit 31     set in value units only             bits 9, 10–30   offset to the children
//! ```
//!
//! The unit at a node's own offset is its value: where in the replacements its text starts.
//! Everything comes from a file, so nothing here trusts an index.

/// A normalization table that has been checked: no lookup leaves it.
#[derive(Clone, Debug, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads and checks a table. The message of an error says what is wrong.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (size, rest) = bytes.split_first_chunk().ok_or("normalization table is cut off")?;
        let size = u32::from_le_bytes(*size) as usize;
        let (array, text) = rest.split_at_checked(size).ok_or("normalization table is cut off")?;
        let (units, remainder) = array.as_chunks();
        if units.is_empty() || !remainder.is_empty() {
            return Err(format!("normalization table has an index of {size} bytes"));
        }
        let replacements = std::str::from_utf8(text)
            .map_err(|err| format!("normalization table is not UTF-8: {err}"))?;
        let map = Self {
            units: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        };
        map.check()?;
        Ok(map)
    }

    /// Walks all nodes, since the `tokenizers` crate, which is given the same table, indexes it
    /// without a check.
    fn check(&self) -> Result<(), String> {
        let root = offset(self.units[0]);
        let mut seen = vec![false; self.units.len()];
        let mut open = vec![root];
        while let Some(base) = open.pop() {
            // a child's place is `base ^ label`; real arrays come in blocks of 256 units
            if base | 0xff >= self.units.len() {
                return Err("normalization table points outside itself".into());
            }
            if std::mem::replace(&mut seen[base], true) {
                continue;
            }
            for label in 1..=0xff_u8 {
                let place = base ^ usize::from(label);
                let unit = self.units[place];
                if !has_label(unit, label) {
                    continue;
                }
                let child = place ^ offset(unit);
                let value = self.units.get(child).copied().map(value);
                if has_value(unit) && value.and_then(|at| self.replacements.get(at..)).is_none() {
                    return Err("normalization table points outside its texts".into());
                }
                open.push(child);
            }
        }
        Ok(())
    }

    /// The longest key at the start of `text`: its length in bytes and its replacement.
    pub(super) fn longest_prefix(&self, text: &str) -> Option<(usize, &str)> {
        let mut place = offset(*self.units.first()?);
        let mut found = None;
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            place ^= usize::from(byte);
            let unit = *self.units.get(place)?;
            if byte == 0 || !has_label(unit, byte) {
                break;
            }
            place ^= offset(unit);
            if has_value(unit) {
                found = Some((index + 1, value(*self.units.get(place)?)));
            }
        }
        let (len, at) = found?;
        // a table made of whole characters ends at one; others are ignored
        text.is_char_boundary(len).then_some(())?;
        Some((len, self.replacements.get(at..)?.split('\0').next()?))
    }
}

fn has_label(unit: u32, label: u8) -> bool {
    unit & 0x8000_00ff == u32::from(label)
}

fn has_value(unit: u32) -> bool {
    unit & 0x100 != 0
}

fn value(unit: u32) -> usize {
    (unit & 0x7fff_ffff) as usize
}

fn offset(unit: u32) -> usize {
    (u64::from(unit >> 10) << ((unit & 0x200) >> 6)) as usize
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A table that maps `A` to `b` and drops `!`, built by hand: one block of units at the root's
    /// offset, values in a second one.
    pub(in crate::pipeline) fn small_table() -> Vec<u8> {
        let mut units = [0_u32; 1024];
        units[0] = 256 << 10;
        for (key, base, at) in [(b'A', 512, 0), (b'!', 768, 2)] {
            let place = 256 ^ usize::from(key);
            units[place] = u32::from(key) | 0x100 | ((place ^ base) as u32) << 10;
            units[base] = 0x8000_0000 | at;
        }
        let mut bytes = (4 * units.len() as u32).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(b"bb\0");
        bytes[4 + 4 * 512] = 1; // "b\0"; the empty text starts at the zero byte
        bytes
    }

    #[test]
    fn keys_are_replaced() {
        let map = Charsmap::parse(&small_table()).unwrap();
        assert_eq!(map.longest_prefix("A!"), Some((1, "b")));
        assert_eq!(map.longest_prefix("!A"), Some((1, "")));
        assert_eq!(map.longest_prefix("x"), None);
        assert_eq!(map.longest_prefix(""), None);
        assert_eq!(map.longest_prefix("\0"), None);
    }

    #[test]
    fn damaged_tables_are_rejected_or_harmless() {
        let table = small_table();
        for len in 0..table.len() - 3 {
            assert!(Charsmap::parse(&table[..len]).is_err(), "{len}");
        }
        assert!(Charsmap::parse(&[0; 4]).is_err());
        assert!(Charsmap::parse(&u32::MAX.to_le_bytes()).is_err());
        let mut rejected = 0;
        for index in 4..table.len() {
            for bit in 0..8 {
                let mut damaged = table.clone();
                damaged[index] ^= 1 << bit;
                match Charsmap::parse(&damaged) {
                    Ok(map) => drop(map.longest_prefix("A!\u{e9}A")),
                    Err(_) => rejected += 1,
                }
            }
        }
        assert!(rejected > 10, "{rejected}");
    }
}
