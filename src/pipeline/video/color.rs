//! Y′CbCr planes from RGB, limited range (luma 16..235, chroma 16..240), and back.

/// Luma weights of red and blue; green has the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    red: f32,
    blue: f32,
}

/// ITU-R BT.601, what readers assume of a video that does not say.
pub(super) const BT601: Matrix = Matrix { red: 0.299, blue: 0.114 };
/// ITU-R BT.709, the matrix of HD video.
pub(super) const BT709: Matrix = Matrix { red: 0.2126, blue: 0.0722 };

impl Matrix {
    /// Luma of a color in 0..255, still in 0..255.
    fn luma([r, g, b]: [f32; 3], m: Self) -> f32 {
        m.red * r + (1.0 - m.red - m.blue) * g + m.blue * b
    }

    /// The luma byte of a color in 0..255.
    fn y(self, rgb: [f32; 3]) -> u8 {
        (16.0 + 219.0 / 255.0 * Self::luma(rgb, self)).round() as u8
    }

    /// The Cb and Cr bytes of a color in 0..255.
    fn chroma(self, rgb: [f32; 3]) -> [u8; 2] {
        let luma = Self::luma(rgb, self);
        [(rgb[2] - luma) / (1.0 - self.blue), (rgb[0] - luma) / (1.0 - self.red)]
            .map(|difference| (128.0 + 112.0 / 255.0 * difference).round() as u8)
    }

    /// The color of the codes `[y, cb, cr]`, which need not be whole; colors that RGB lacks are
    /// clamped.
    pub(super) fn rgb(self, [y, cb, cr]: [f32; 3], range: Range) -> [u8; 3] {
        let (luma, chroma) = match range {
            Range::Limited => ((y - 16.0) * (255.0 / 219.0), 255.0 / 112.0),
            Range::Full => (y, 2.0),
        };
        let b = luma + (cb - 128.0) * chroma * (1.0 - self.blue);
        let r = luma + (cr - 128.0) * chroma * (1.0 - self.red);
        let g = (luma - self.red * r - self.blue * b) / (1.0 - self.red - self.blue);
        // `as` saturates, which is the clamp.
        [r, g, b].map(|level| level.round() as u8)
    }
}

/// Which codes stand for black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// 16 and 235.
    Limited,
    /// 0 and 255.
    Full,
}

/// Three planes, row-major without padding between rows.
#[derive(Debug)]
pub(super) struct Planes {
    pub(super) y: Vec<u8>,
    pub(super) cb: Vec<u8>,
    pub(super) cr: Vec<u8>,
}

/// Planes of full resolution (4:4:4) from `rgb` `[height, width, 3]`.
pub(super) fn planes_444_from_rgb(rgb: &[u8], matrix: Matrix) -> Planes {
    let pixels = rgb.len() / 3;
    let mut planes =
        Planes { y: Vec::with_capacity(pixels), cb: vec![0; pixels], cr: vec![0; pixels] };
    for (i, pixel) in rgb.chunks_exact(3).enumerate() {
        let color = [pixel[0], pixel[1], pixel[2]].map(f32::from);
        planes.y.push(matrix.y(color));
        [planes.cb[i], planes.cr[i]] = matrix.chroma(color);
    }
    planes
}

/// Planes with chroma halved both ways (4:2:0) from `rgb` `[height, width, 3]`.
///
/// Odd sizes grow by one column or row that repeats the last. Chroma samples lie at the left luma
/// column of their pair and between its rows, where H.264 puts them unless told otherwise: weights
/// 1-2-1 across and 1-1 down.
pub(super) fn planes_420_from_rgb(
    rgb: &[u8],
    [height, width]: [usize; 2],
    matrix: Matrix,
) -> Planes {
    let [rows, columns] = [height, width].map(|len| len.next_multiple_of(2));
    let pixel = |row: usize, column: usize| {
        let at = (row.min(height - 1) * width + column.min(width - 1)) * 3;
        [rgb[at], rgb[at + 1], rgb[at + 2]].map(f32::from)
    };
    let mut y = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        y.extend((0..columns).map(|column| matrix.y(pixel(row, column))));
    }
    let mut cb = Vec::with_capacity(rows * columns / 4);
    let mut cr = Vec::with_capacity(rows * columns / 4);
    for row in (0..rows).step_by(2) {
        for column in (0..columns).step_by(2) {
            let mut mean = [0.0_f32; 3];
            for row in [row, row + 1] {
                for (column, weight) in
                    [(column.saturating_sub(1), 0.125), (column, 0.25), (column + 1, 0.125)]
                {
                    let color = pixel(row, column);
                    mean = [0, 1, 2].map(|c| mean[c] + weight * color[c]);
                }
            }
            let [b, r] = matrix.chroma(mean);
            cb.push(b);
            cr.push(r);
        }
    }
    Planes { y, cb, cr }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(planes: &Planes) -> [u8; 3] {
        [planes.y[0], planes.cb[0], planes.cr[0]]
    }

    #[test]
    fn primaries_have_the_codes_of_the_standard() {
        // ITU-R BT.709-6, 8 bits: 16 + 219·Y′ and 128 + 224·C.
        let code = |rgb: [u8; 3]| first(&planes_444_from_rgb(&rgb, BT709));
        assert_eq!(code([0, 0, 0]), [16, 128, 128]);
        assert_eq!(code([255, 255, 255]), [235, 128, 128]);
        assert_eq!(code([255, 0, 0]), [63, 102, 240]);
        assert_eq!(code([0, 255, 0]), [173, 42, 26]);
        assert_eq!(code([0, 0, 255]), [32, 240, 118]);
        assert_eq!(first(&planes_444_from_rgb(&[255, 0, 0], BT601)), [81, 90, 240]);
    }

    #[test]
    fn codes_come_back_as_their_colors() {
        for matrix in [BT601, BT709] {
            for rgb in [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [12, 34, 200]] {
                let codes = first(&planes_444_from_rgb(&rgb, matrix)).map(f32::from);
                let back = matrix.rgb(codes, Range::Limited);
                let worst = (0..3).map(|c| back[c].abs_diff(rgb[c])).max();
                assert!(worst <= Some(2), "{rgb:?} came back as {back:?}");
            }
        }
        // JPEG's codes of pure red.
        assert_eq!(BT601.rgb([76.0, 85.0, 255.0], Range::Full), [254, 0, 0]);
        assert_eq!(BT601.rgb([255.0, 128.0, 128.0], Range::Full), [255; 3]);
    }

    #[test]
    fn odd_sizes_repeat_their_edge() {
        let rgb: Vec<u8> = (0..3 * 5 * 3).map(|i| (i * 5) as u8).collect();
        let planes = planes_420_from_rgb(&rgb, [3, 5], BT709);
        assert_eq!((planes.y.len(), planes.cb.len(), planes.cr.len()), (4 * 6, 2 * 3, 2 * 3));
        assert_eq!(planes.y[4], planes.y[5]);
        assert_eq!(planes.y[2 * 6..3 * 6], planes.y[3 * 6..]);
    }
}
