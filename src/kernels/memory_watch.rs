//! How much device memory is needed at once: a look at what is in use at every dispatch.

use burn::tensor::Device;
use burn_cubecl::cubecl::{MemoryScope, client::Client};
use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// The most bytes seen since a watch began; `None` without one.
    static MOST: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Looks at the bytes in use whenever its thread dispatches a kernel of this crate, when what that
/// reads and writes has its memory, and where it is told to; Burn's own operations are seen by what
/// they leave.
///
/// The runtime reserves more than is in use: it takes memory in pages and keeps them. A thread has
/// one watch at a time; a second begins anew.
#[derive(Debug)]
pub struct MemoryWatch {
    /// Belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl MemoryWatch {
    /// Begins to look.
    pub fn start() -> Self {
        MOST.set(Some(0));
        Self { _thread: PhantomData }
    }

    /// Lets the watch of this thread look at `device` now, if there is one: where much memory is taken
    /// without a dispatch.
    pub fn look_at(device: &Device) {
        if MOST.get().is_some() {
            note(device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use));
        }
    }

    /// Does not look until the value is dropped. Passes that are alike need one look: of the pocket
    /// model's clip on lavapipe, whose passes take 60 ms, looking at all took a quarter of the time
    /// (`examples/peers/first_use.py`).
    #[must_use]
    pub fn pause() -> Pause {
        Pause { most: MOST.take(), _thread: PhantomData }
    }

    /// The most bytes in use that it saw; `None` where no kernel was dispatched, as on the CPU
    /// device.
    pub fn stop(self) -> Option<u64> {
        MOST.get().filter(|&most| most > 0)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        MOST.set(None);
    }
}

/// While it lives, the watch of its thread does not look.
#[derive(Debug)]
pub struct Pause {
    most: Option<u64>,
    _thread: PhantomData<*const ()>,
}

impl Drop for Pause {
    fn drop(&mut self) {
        MOST.set(self.most);
    }
}

/// Lets the watch of this thread look, if there is one.
pub(super) fn look(client: &Client) {
    if MOST.get().is_some() {
        note(client.memory_report(MemoryScope::Device).usage().bytes_in_use);
    }
}

fn note(bytes_in_use: u64) {
    MOST.set(MOST.get().map(|most| most.max(bytes_in_use)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_with_its_value_and_keeps_what_was_seen() {
        let watch = MemoryWatch::start();
        note(3);
        let pause = MemoryWatch::pause();
        note(5);
        drop(pause);
        note(4);
        assert_eq!(watch.stop(), Some(4));
    }

    #[test]
    fn a_watch_that_saw_no_dispatch_tells_nothing_and_ends() {
        assert_eq!(MemoryWatch::start().stop(), None);
        assert_eq!(MOST.get(), None);
    }
}
