//! Captions: every sentence of the world, and which of them no training may see.

use super::words::{Background, Color, Direction, Motion, Shape, Speed};
use std::fmt;
use std::str::FromStr;

/// What one sentence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caption {
    /// What is seen.
    pub shape: Shape,
    /// Its colour.
    pub color: Color,
    /// What it does.
    pub motion: Motion,
    /// What is behind it.
    pub background: Background,
}

/// Why a sentence is not a caption.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "caption {text:?} has {found} where one of {expected} must be; write for instance \
     \"a red circle moves right slowly over a blue background\""
)]
pub struct CaptionError {
    /// The sentence.
    pub text: String,
    /// The word in question, quoted, or "its end".
    pub found: String,
    /// What could stand there, separated by commas.
    pub expected: String,
}

/// Which captions a set of scenes is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What training may see: seven captions of eight.
    Training,
    /// What it may not: the combinations that [`Caption::is_held_out`] names.
    HeldOut,
    /// Every caption.
    All,
}

impl Split {
    /// Whether the caption belongs to the split.
    pub const fn contains(self, caption: Caption) -> bool {
        match self {
            Self::Training => !caption.is_held_out(),
            Self::HeldOut => caption.is_held_out(),
            Self::All => true,
        }
    }

    /// Every caption of the split, in the order of [`Caption::all`].
    pub fn captions(self) -> impl Iterator<Item = Caption> {
        Caption::all().filter(move |caption| self.contains(*caption))
    }
}

impl Caption {
    /// How many captions there are.
    pub const COUNT: usize =
        Shape::ALL.len() * Color::ALL.len() * Background::ALL.len() * Motion::COUNT;

    /// Every caption, each once; what is behind the object changes fastest, the shape slowest.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = |shape| Color::ALL.into_iter().map(move |color| (shape, color));
        let motions = |(shape, color)| Motion::all().map(move |motion| (shape, color, motion));
        let captions = |(shape, color, motion)| {
            let over = move |background| Self { shape, color, motion, background };
            Background::ALL.into_iter().map(over)
        };
        Shape::ALL.into_iter().flat_map(kinds).flat_map(motions).flat_map(captions)
    }

    /// Whether the combination of shape, colour and direction (or standing still) is kept from
    /// training, whatever the speed and the background.
    ///
    /// Ten of the eighty combinations are, two for each direction, spread evenly over shapes and
    /// colours: exactly one caption in eight. Every pair of words still occurs in training, so a
    /// model that gets these right has learnt the words and not the sentences.
    pub const fn is_held_out(self) -> bool {
        let motion = match self.motion.direction() {
            None => 0,
            Some(direction) => 1 + direction.index(),
        };
        let shape = self.shape.index();
        motion % 2 == shape % 2 && self.color.index() == (shape / 2 * 2 + motion) % 4
    }

    /// Reads a sentence of the form that [`fmt::Display`] writes; capitals, extra spaces and a
    /// full stop at the end are forgiven.
    ///
    /// # Errors
    /// Names the first word that does not fit, and what would.
    pub fn parse(text: &str) -> Result<Self, CaptionError> {
        let lower = text.trim().trim_end_matches('.').to_lowercase();
        let mut words = Words { text, rest: lower.split_whitespace().peekable() };
        words.fixed("a")?;
        let color = words.one_of(&Color::ALL, Color::word)?;
        let shape = words.one_of(&Shape::ALL, Shape::word)?;
        let motion = match words.one_of(&["moves", "stays"], |word| word)? {
            "stays" => words.fixed("still").map(|()| Motion::Still)?,
            _ => {
                let direction = words.one_of(&Direction::ALL, Direction::word)?;
                Motion::Moves(direction, words.speed()?)
            }
        };
        words.fixed("over")?;
        words.fixed("a")?;
        let background = words.one_of(&Background::ALL, Background::word)?;
        words.fixed("background")?;
        match words.rest.next() {
            None => Ok(Self { shape, color, motion, background }),
            Some(word) => Err(words.error(Some(word), "the end".to_owned())),
        }
    }
}

impl fmt::Display for Caption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, color, motion, background } = self;
        write!(f, "a {color} {shape} {motion} over a {background} background")
    }
}

impl FromStr for Caption {
    type Err = CaptionError;

    fn from_str(text: &str) -> Result<Self, CaptionError> {
        Self::parse(text)
    }
}

/// What is left to parse.
struct Words<'a> {
    text: &'a str,
    rest: std::iter::Peekable<std::str::SplitWhitespace<'a>>,
}

impl Words<'_> {
    fn error(&self, found: Option<&str>, expected: String) -> CaptionError {
        let found = found.map_or_else(|| "its end".to_owned(), |word| format!("{word:?}"));
        CaptionError { text: self.text.to_owned(), found, expected }
    }

    /// Takes the next word if it is one of the words of `all`.
    fn one_of<T: Copy>(
        &mut self,
        all: &[T],
        word_of: impl Fn(T) -> &'static str,
    ) -> Result<T, CaptionError> {
        let next = self.rest.next();
        let found = all.iter().copied().find(|one| Some(word_of(*one)) == next);
        found.ok_or_else(|| {
            let words: Vec<_> = all.iter().map(|one| word_of(*one)).collect();
            self.error(next, words.join(", "))
        })
    }

    fn fixed(&mut self, word: &'static str) -> Result<(), CaptionError> {
        self.one_of(&[word], |word| word).map(|_| ())
    }

    /// Takes a speed; "over" next means that none was said.
    fn speed(&mut self) -> Result<Speed, CaptionError> {
        let next = self.rest.peek().copied();
        if next == Some("over") {
            return Ok(Speed::Normal);
        }
        let speed = next.and_then(Speed::from_word);
        self.rest.next();
        speed.ok_or_else(|| self.error(next, "slowly, fast, over".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_caption_is_written_once_and_read_back() {
        let texts: HashSet<_> = Caption::all().map(|caption| caption.to_string()).collect();
        assert_eq!((Caption::COUNT, texts.len()), (832, 832));
        for caption in Caption::all() {
            assert_eq!(Caption::parse(&caption.to_string()), Ok(caption));
        }
        assert!(texts.contains("a red circle moves right slowly over a blue background"));
        assert!(texts.contains("a white square stays still over a black background"));
        assert!(texts.contains("a green cross moves up over a gray background"));
    }

    #[test]
    fn small_liberties_are_forgiven() {
        let text = "  A yellow  triangle moves down FAST over a purple background. ";
        let caption = Caption::parse(text).expect("a caption");
        assert_eq!(
            caption.to_string(),
            "a yellow triangle moves down fast over a purple background"
        );
    }

    #[test]
    fn errors_name_the_word_and_the_choices() {
        let cases = [
            ("", "its end", "a"),
            ("a blue circle", "\"blue\"", "red, green, yellow, white"),
            ("a red star", "\"star\"", "circle, square, triangle, cross"),
            ("a red circle jumps", "\"jumps\"", "moves, stays"),
            ("a red circle moves", "its end", "right, left, up, down"),
            ("a red circle moves up quickly", "\"quickly\"", "slowly, fast, over"),
            ("a red circle moves up over a red", "\"red\"", "blue, black, gray, purple"),
            ("a red circle stays still over a gray background now", "\"now\"", "the end"),
        ];
        for (text, found, expected) in cases {
            let error = Caption::parse(text).expect_err(text);
            assert_eq!((error.found.as_str(), error.expected.as_str()), (found, expected));
            assert!(error.to_string().contains("write for instance"), "{error}");
        }
    }

    #[test]
    fn one_caption_in_eight_is_held_out_and_every_pair_of_words_is_trained() {
        let held: Vec<_> = Split::HeldOut.captions().collect();
        assert_eq!((held.len(), Split::Training.captions().count()), (104, 728));
        let pairs = |split: Split| {
            let pair = |c: Caption| {
                let words = [
                    c.shape.word(),
                    c.color.word(),
                    c.background.word(),
                    c.motion.direction().map_or("still", Direction::word),
                    match c.motion {
                        Motion::Moves(_, speed) => speed.word(),
                        Motion::Still => "none",
                    },
                ];
                (0..5).flat_map(move |i| (i + 1..5).map(move |j| (i, words[i], j, words[j])))
            };
            split.captions().flat_map(pair).collect::<HashSet<_>>()
        };
        assert_eq!(pairs(Split::Training), pairs(Split::All));
        for shape in Shape::ALL {
            assert!(held.iter().filter(|caption| caption.shape == shape).count() >= 12);
        }
        for color in Color::ALL {
            assert!(held.iter().filter(|caption| caption.color == color).count() >= 12);
        }
    }
}
