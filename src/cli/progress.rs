//! One progress bar per stage on stderr, silent when nobody watches.

use super::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, stderr};

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

    /// [`Self::advance`] with words of the caller's instead of rate and ETA.
    pub(super) fn advance_saying(&mut self, stage: &str, done: usize, total: usize, words: &str) {
        let is_new = self.current.as_ref().is_none_or(|(name, _)| name != stage);
        self.advance(stage, "", done, total);
        if let Some((_, bar)) = &self.current {
            if is_new {
                bar.set_style(saying());
            }
            bar.set_message(words.to_owned());
        }
    }

    /// Changes the words behind the bar of `stage`; `false` if another stage is on.
    pub(super) fn say(&self, stage: &str, words: &str) -> bool {
        match &self.current {
            Some((name, bar)) if name == stage => {
                bar.set_message(words.to_owned());
                true
            }
            _ => false,
        }
    }

    /// A line about the work, above the bar; nothing if it is hidden by request.
    pub(super) fn note(&self, text: &str) {
        match &self.current {
            _ if self.hidden => {}
            Some((_, bar)) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    /// Whether somebody sees the bar.
    pub(super) fn is_seen(&self) -> bool {
        !self.hidden && stderr().is_terminal()
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

fn saying() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:<9} {bar:20} {pos}/{len}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
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
