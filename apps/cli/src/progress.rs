//! How far a long command is, for a person at a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};

/// A line at the bottom of the terminal; nothing if standard error is not one.
pub(crate) struct Progress(ProgressBar);

const OF_BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
const BYTES: &str = "{msg} {spinner} {bytes} {bytes_per_sec}";
const ENTRIES: &str = "{msg} {spinner} {human_pos} entries, {per_sec}";

impl Progress {
    /// Through `total` bytes, if that is known.
    pub(crate) fn bytes(what: &'static str, total: Option<u64>) -> Progress {
        let template = if total.is_some() { OF_BYTES } else { BYTES };
        Progress::new(what, total, template)
    }

    /// Through entries, nobody knows how many.
    pub(crate) fn entries(what: &'static str) -> Progress {
        Progress::new(what, None, ENTRIES)
    }

    fn new(what: &'static str, total: Option<u64>, template: &str) -> Progress {
        let target = match stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(total, target).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress(bar)
    }

    /// Goes on to `position`.
    pub(crate) fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_templates_are_valid() {
        for template in [super::OF_BYTES, super::BYTES, super::ENTRIES] {
            assert!(indicatif::ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
