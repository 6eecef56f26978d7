//! Which captions and prompts an evaluation samples.

use super::EvaluateError;
use crate::pipeline::defaults::SamplingDefaults;
use crate::world::{Caption, Motion, Scene, Split};

/// Most clips of an evaluation.
const MAX_CASES: usize = 100_000;

/// Something to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The text that the model gets.
    pub prompt: String,
    /// A film that the text describes; `None` for a prompt that is no caption of the world.
    pub scene: Option<Scene>,
}

impl Case {
    /// A caption of the world; `seed` decides where the object of its [`Scene`] is.
    pub fn of_caption(caption: Caption, seed: u64) -> Self {
        Self { prompt: caption.to_string(), scene: Some(Scene::with_caption(caption, seed)) }
    }

    /// What the clip has to show, if that can be read back.
    pub fn caption(&self) -> Option<Caption> {
        self.scene.map(|scene| scene.caption)
    }

    /// Whether no training has seen the caption; `None` for other prompts.
    pub fn is_held_out(&self) -> Option<bool> {
        self.scene.map(|scene| scene.is_held_out())
    }
}

/// Whether the model was trained on the world's captions: whether the prompt that its
/// `sampling.json` suggests is one of them.
pub fn knows_the_world(defaults: &SamplingDefaults) -> bool {
    defaults.prompt.as_deref().is_some_and(|prompt| Caption::parse(prompt).is_ok())
}

/// `count` captions of the world, half of them seen in training and, behind those, half held out.
///
/// Every word occurs about as often as the others of its kind; standing still counts as a
/// direction. The choice depends on `count` alone.
///
/// # Errors
///
/// If there would be none, or more than 100 000.
pub fn balanced_cases(count: usize) -> Result<Vec<Case>, EvaluateError> {
    if !(1..=MAX_CASES).contains(&count) {
        return Err(EvaluateError::Setting(format!(
            "--clips: {count} clips are not possible, only 1 to {MAX_CASES}"
        )));
    }
    let held_out = count / 2;
    let captions = [(Split::Training, count - held_out), (Split::HeldOut, held_out)]
        .into_iter()
        .flat_map(|(split, count)| balanced(split, count));
    Ok(captions.enumerate().map(|(i, caption)| Case::of_caption(caption, i as u64)).collect())
}

/// One case for each line of `text` that is not empty. Lines that are captions get a scene if
/// `knows_the_world` says that the model has learned what they mean.
///
/// # Errors
///
/// If there is no line.
pub fn prompt_cases(text: &str, knows_the_world: bool) -> Result<Vec<Case>, EvaluateError> {
    let case = |(i, line): (usize, &str)| match Caption::parse(line) {
        Ok(caption) if knows_the_world => Case::of_caption(caption, i as u64),
        _ => Case { prompt: line.to_owned(), scene: None },
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let cases: Vec<Case> = lines.enumerate().map(case).collect();
    match cases.len() {
        0 => Err(EvaluateError::Setting("there is no prompt; write one per line".to_owned())),
        1..=MAX_CASES => Ok(cases),
        count => Err(EvaluateError::Setting(format!(
            "{count} prompts are too many; give up to {MAX_CASES}"
        ))),
    }
}

/// Kinds of words, and how many there are of each.
const KINDS: [usize; 5] = [4, 4, 5, 4, 4];

/// Which word of each kind a caption has: shape, color, direction, speed, background.
fn words(caption: Caption) -> [usize; 5] {
    let (direction, speed) = match caption.motion {
        Motion::Still => (0, 0),
        Motion::Moves(direction, speed) => (1 + direction.index(), 1 + speed.index()),
    };
    let [shape, color] = [caption.shape.index(), caption.color.index()];
    [shape, color, direction, speed, caption.background.index()]
}

/// Takes, one by one, the caption whose words have been taken least.
fn balanced(split: Split, count: usize) -> Vec<Caption> {
    let captions: Vec<Caption> = split.captions().collect();
    let mut taken = vec![0_usize; captions.len()];
    let mut uses = [[0_usize; 5]; 5];
    let mut chosen = Vec::with_capacity(count);
    for pick in 0..count {
        let cost = |i: usize| {
            let words = words(captions[i]);
            let used: usize = (0..5).map(|kind| uses[kind][words[kind]] * KINDS[kind]).sum();
            (taken[i], used, scatter(pick, i))
        };
        let Some(best) = (0..captions.len()).min_by_key(|&i| cost(i)) else { break };
        taken[best] += 1;
        for (kind, word) in words(captions[best]).into_iter().enumerate() {
            uses[kind][word] += 1;
        }
        chosen.push(captions[best]);
    }
    chosen
}

/// Order among equals that follows no word: the mixing step of `SplitMix64`.
const fn scatter(pick: usize, index: usize) -> u64 {
    let mut x = ((pick as u64) << 32 | index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn half_of_the_cases_are_held_out_and_words_are_balanced() {
        let cases = balanced_cases(80).expect("cases");
        let held: Vec<bool> = cases.iter().filter_map(Case::is_held_out).collect();
        assert!(held[..40].iter().all(|held| !held) && held[40..].iter().all(|held| *held));
        let distinct: HashSet<&str> = cases.iter().map(|case| case.prompt.as_str()).collect();
        assert_eq!(distinct.len(), 80);
        for half in cases.chunks(40) {
            let mut uses = [[0_usize; 5]; 5];
            for caption in half.iter().filter_map(Case::caption) {
                for (kind, word) in words(caption).into_iter().enumerate() {
                    uses[kind][word] += 1;
                }
            }
            for (kind, &count) in KINDS.iter().enumerate() {
                let least = uses[kind][..count].iter().min();
                let most = uses[kind][..count].iter().max();
                let spread = most.zip(least).map(|(most, least)| most - least);
                // Speeds cannot be as even: what stands still has none. Nor can the directions of
                // captions held out, whose shapes and colors are tied to them.
                let allowed = [2, 2, 4, 5, 2][kind];
                assert!(spread <= Some(allowed), "kind {kind}: {:?}", uses[kind]);
            }
        }
    }

    #[test]
    fn a_choice_may_exceed_the_captions_there_are() {
        let cases = balanced_cases(500).expect("cases");
        assert_eq!(cases.len(), 500);
        assert_ne!(cases[250].scene, cases[499].scene);
        assert_eq!(balanced_cases(1).expect("a case")[0].is_held_out(), Some(false));
        for count in [0, usize::MAX] {
            let error = balanced_cases(count).expect_err("impossible").to_string();
            assert!(error.contains("--clips"), "{error}");
        }
    }

    #[test]
    fn prompts_are_captions_only_for_models_that_know_them() {
        let text = "a red circle moves up over a black background\n\n  rain  \n";
        let cases = prompt_cases(text, true).expect("cases");
        assert_eq!((cases.len(), cases[1].prompt.as_str()), (2, "rain"));
        assert!(cases[0].caption().is_some() && cases[1].caption().is_none());
        let cases = prompt_cases(text, false).expect("cases");
        assert!(cases[0].caption().is_none());
        assert!(prompt_cases(" \n", true).is_err());
    }
}
