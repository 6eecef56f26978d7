//! Names of one program in those of another.

/// Pairs of names, theirs and ours; a name stands for itself and everything below it.
type Pairs = &'static [(&'static str, &'static str)];

/// How a layout calls the parameters of a model: a few single ones, and many in numbered blocks.
#[derive(Debug)]
pub(in super::super) struct NameTable {
    /// Outside the blocks.
    pub(super) single: Pairs,
    /// What stands before the number of a block.
    pub(super) blocks: (&'static str, &'static str),
    /// Behind the number.
    pub(super) in_block: Pairs,
}

impl NameTable {
    /// Our name for their `name`, if the table has it.
    pub(in super::super) fn translate(&self, name: &str) -> Option<String> {
        self.replace(name, self.blocks, |&pair| pair)
    }

    /// Their name for our `name`, if the table has it.
    pub(in super::super) fn translate_back(&self, name: &str) -> Option<String> {
        let (theirs, ours) = self.blocks;
        self.replace(name, (ours, theirs), |&(theirs, ours)| (ours, theirs))
    }

    fn replace(
        &self,
        name: &str,
        (from, to): (&str, &str),
        pair: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> Option<String> {
        let find = |pairs: Pairs, name: &str| {
            pairs.iter().map(&pair).find_map(|(from, to)| {
                let rest = name.strip_prefix(from)?;
                (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
            })
        };
        let in_block = name.strip_prefix(from).and_then(|rest| rest.split_once('.'));
        match in_block {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                find(self.in_block, rest).map(|rest| format!("{to}{number}.{rest}"))
            }
            _ => find(self.single, name),
        }
    }
}
