//! One progress bar per stage on stderr, silent when nobody watches.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that is replaced when the stage changes.
pub(super) struct StageBar {
    hidden: bool,
    current: Option<(String, ProgressBar)>,
}

impl StageBar {
    /// Draws nothing if `quiet`, or if stderr is no terminal.
    pub(super) fn new(quiet: bool) -> Self {
        Self { hidden: quiet, current: None }
    }

    /// `done` of `total` `unit`s of `stage`.
    pub(super) fn advance(&mut self, stage: &str, unit: &str, done: usize, total: usize) {
        if self.current.as_ref().is_none_or(|(name, _)| name != stage) {
            self.finish();
            let bar = ProgressBar::with_draw_target(Some(total as u64), self.target());
            bar.set_style(style(unit));
            bar.set_prefix(stage.to_owned());
            self.current = Some((stage.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(done as u64);
        }
    }

    /// Leaves the last state of the bar on the screen.
    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish();
        }
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

fn style(unit: &str) -> ProgressStyle {
    let template = format!(
        "{{prefix:<20}} {{bar:30}} {{pos}}/{{len}} {unit}  {{seconds_per_unit}}  ETA {{eta}}"
    );
    let seconds = |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
        let per_unit = state.elapsed().as_secs_f64() / state.pos().max(1) as f64;
        // A failed write only costs this frame of the bar.
        let _ = write!(out, "{per_unit:.2} s/it");
    };
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("seconds_per_unit", seconds)
        .progress_chars("━╸ ")
}
