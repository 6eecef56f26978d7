//! Frames as windows read them on the CPU: channels last, zeros and doubled pixels written out.

/// What each place along an axis of [`Padded`] holds: an index of the source, or a zero.
pub(super) struct Axis(Vec<Option<usize>>);

impl Axis {
    /// The source itself.
    pub(super) fn whole(len: usize) -> Self {
        Self((0..len).map(Some).collect())
    }

    /// `places` that begin `pad` before a source of `len`, each of which is read `2^shift` times.
    pub(super) fn padded(places: usize, pad: i64, len: usize, shift: u32) -> Self {
        let source = |place: usize| {
            let at = usize::try_from(place as i64 - pad).ok()? >> shift;
            (at < len).then_some(at)
        };
        Self((0..places).map(source).collect())
    }

    /// `places` that begin `pad` before a source of `len`, whose values lie `stride` apart.
    pub(super) fn spread(places: usize, pad: i64, len: usize, stride: usize) -> Self {
        let source = |place: usize| {
            let at = usize::try_from(place as i64 - pad).ok()?;
            (at.is_multiple_of(stride) && at / stride < len).then_some(at / stride)
        };
        Self((0..places).map(source).collect())
    }
}

/// Consecutive frames, `[channels, frames, height, width]`.
pub(super) struct Frames<'a> {
    pub(super) values: &'a [f32],
    pub(super) count: usize,
}

/// `[frames, height, width, channels]` with whatever lies between and around the frames.
pub(super) struct Padded {
    pub(super) values: Vec<f32>,
    /// Of each frame, whether it is more than zeros.
    pub(super) exists: Vec<bool>,
    pub(super) channels: usize,
    height: usize,
    width: usize,
}

impl Padded {
    /// Frames of `channels` and `[height, width]`, those of `past` before those of `present`, as
    /// `axes` (time, height, width) select them.
    pub(super) fn new(
        [past, present]: [Frames<'_>; 2],
        channels: usize,
        [height, width]: [usize; 2],
        axes: &[Axis; 3],
    ) -> Self {
        let [frames, rows, columns] = axes.each_ref().map(|axis| &axis.0);
        let row_len = columns.len() * channels;
        let mut values = vec![0.0; frames.len() * rows.len() * row_len];
        let frame_len = rows.len() * row_len;
        for (frame, values) in frames.iter().zip(values.chunks_exact_mut(frame_len)) {
            let Some(frame) = *frame else { continue };
            let (source, frame) =
                if frame < past.count { (&past, frame) } else { (&present, frame - past.count) };
            for (row, values) in rows.iter().zip(values.chunks_exact_mut(row_len)) {
                let Some(row) = *row else { continue };
                for channel in 0..channels {
                    let start = ((channel * source.count + frame) * height + row) * width;
                    let row = &source.values[start..start + width];
                    let values = values.iter_mut().skip(channel).step_by(channels);
                    for (value, column) in values.zip(columns) {
                        if let Some(column) = *column {
                            *value = row[column];
                        }
                    }
                }
            }
        }
        let exists = frames.iter().map(Option::is_some).collect();
        Self { values, exists, channels, height: rows.len(), width: columns.len() }
    }

    /// Where a place begins, in time, height and width.
    pub(super) fn at(&self, [frame, row, column]: [usize; 3]) -> usize {
        ((frame * self.height + row) * self.width + column) * self.channels
    }
}
