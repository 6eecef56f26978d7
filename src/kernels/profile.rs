//! Time by kernel, whatever calls them: every dispatch in a window of its own.

use burn_cubecl::cubecl::client::Client;
use std::cell::RefCell;

/// All dispatches of one kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// Its name.
    pub name: &'static str,
    /// Dispatches.
    pub calls: usize,
    /// Seconds of all of them, by the device's timestamps, or on the wall where it has none.
    pub seconds: f64,
}

thread_local! {
    static TIMES: RefCell<Option<Vec<KernelTime>>> = const { RefCell::new(None) };
}

/// Runs `work` and says what the dispatches of this crate's kernels took, in the order of their
/// first calls.
///
/// The device is waited for after each, so `work` takes longer than otherwise; operations of Burn
/// run as usual and are not counted. Only what this thread dispatches is seen, and nothing on the
/// CPU device.
pub fn profile_kernels<T>(work: impl FnOnce() -> T) -> (T, Vec<KernelTime>) {
    /// Ends the profile even if `work` panics.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            TIMES.with_borrow_mut(Option::take);
        }
    }
    TIMES.with_borrow_mut(|times| *times = Some(Vec::new()));
    let off = Off;
    let result = work();
    let times = TIMES.with_borrow_mut(Option::take).unwrap_or_default();
    drop(off);
    (result, times)
}

/// Runs `dispatch`, inside a window if a profile is on.
pub(super) fn timed(name: &'static str, client: &Client, dispatch: impl FnOnce()) {
    if TIMES.with_borrow(Option::is_none) {
        return dispatch();
    }
    let Ok(window) = client.profile_start() else { return dispatch() };
    dispatch();
    let ticks = client.profile_end(window).ok().map(|span| pollster::block_on(span.resolve()));
    let Some(ticks) = ticks.flatten() else { return };
    let seconds = ticks.duration().as_secs_f64();
    TIMES.with_borrow_mut(|times| {
        let times = times.get_or_insert_default();
        match times.iter_mut().find(|time| time.name == name) {
            Some(time) => {
                time.calls += 1;
                time.seconds += seconds;
            }
            None => times.push(KernelTime { name, calls: 1, seconds }),
        }
    });
}
