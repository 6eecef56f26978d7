//! The words of the world and what each of them means in numbers.

use std::fmt;

/// An enum whose variants are words, with the list of them and the way back.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every one, in a fixed order.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word of a caption; empty where none is said.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// Place in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The one with that word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.word() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// What moves.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square on its side.
        Square = "square",
        /// An equilateral triangle, apex up.
        Triangle = "triangle",
        /// A plus sign.
        Cross = "cross",
    }
}

words! {
    /// Colour of the object; no background has one of them, so that every word binds by itself.
    Color {
        /// Red.
        Red = "red",
        /// Green.
        Green = "green",
        /// Yellow.
        Yellow = "yellow",
        /// White.
        White = "white",
    }
}

words! {
    /// Colour behind the object.
    Background {
        /// Blue.
        Blue = "blue",
        /// Black.
        Black = "black",
        /// Gray.
        Gray = "gray",
        /// Purple.
        Purple = "purple",
    }
}

words! {
    /// Where a moving object goes.
    Direction {
        /// Towards larger columns.
        Right = "right",
        /// Towards smaller columns.
        Left = "left",
        /// Towards smaller rows.
        Up = "up",
        /// Towards larger rows.
        Down = "down",
    }
}

words! {
    /// How far a moving object gets.
    Speed {
        /// 0.16 of the frame per clip.
        Slow = "slowly",
        /// 0.30 of the frame per clip; a caption says nothing.
        Normal = "",
        /// 0.55 of the frame per clip.
        Fast = "fast",
    }
}

impl Color {
    /// The colour itself, sRGB.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [226, 48, 44],
            Self::Green => [58, 206, 92],
            Self::Yellow => [250, 216, 54],
            Self::White => [246, 246, 244],
        }
    }
}

impl Background {
    /// The colour at half height, sRGB; [`super::render`] makes it lighter above and darker below.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Blue => [34, 62, 152],
            Self::Black => [18, 18, 22],
            Self::Gray => [108, 110, 114],
            Self::Purple => [108, 46, 138],
        }
    }
}

impl Direction {
    /// `[x, y]` of the direction; rows count downwards.
    pub const fn unit(self) -> [f64; 2] {
        match self {
            Self::Right => [1.0, 0.0],
            Self::Left => [-1.0, 0.0],
            Self::Up => [0.0, -1.0],
            Self::Down => [0.0, 1.0],
        }
    }
}

impl Speed {
    /// Way from the first frame to the last, in widths (heights, for up and down) of the frame.
    /// Each is about 1.85 times the one before.
    pub const fn travel(self) -> f64 {
        match self {
            Self::Slow => 0.16,
            Self::Normal => 0.30,
            Self::Fast => 0.55,
        }
    }
}

/// What an object does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Motion {
    /// It stays where it is.
    Still,
    /// It moves along a straight line, at one speed.
    Moves(Direction, Speed),
}

impl Motion {
    /// How many motions there are.
    pub const COUNT: usize = 1 + Direction::ALL.len() * Speed::ALL.len();

    /// Every motion: standing still first, then direction by direction.
    pub fn all() -> impl Iterator<Item = Self> {
        let moves = Direction::ALL
            .into_iter()
            .flat_map(|way| Speed::ALL.into_iter().map(move |speed| Self::Moves(way, speed)));
        std::iter::once(Self::Still).chain(moves)
    }

    /// The direction of a moving object.
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Still => None,
            Self::Moves(direction, _) => Some(direction),
        }
    }

    /// Way `[x, y]` from the first frame to the last, in widths and heights of the frame.
    pub fn travel(self) -> [f64; 2] {
        match self {
            Self::Still => [0.0, 0.0],
            Self::Moves(direction, speed) => direction.unit().map(|part| part * speed.travel()),
        }
    }
}

impl fmt::Display for Motion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Still => f.write_str("stays still"),
            Self::Moves(direction, Speed::Normal) => write!(f, "moves {direction}"),
            Self::Moves(direction, speed) => write!(f, "moves {direction} {speed}"),
        }
    }
}
