//! Time by kernel, whatever calls them: every dispatch in a window of its own.

use super::AdapterFacts;
use burn::tensor::Device;
use burn_cubecl::cubecl::client::Client;
use cpu_time::ProcessTime;
use std::cell::RefCell;

/// All dispatches of one kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// Its name.
    pub name: &'static str,
    /// Dispatches.
    pub calls: usize,
    /// Seconds of all of them: of one core where a CPU is the device, else by the device's
    /// timestamps, or on the wall where it has none.
    pub seconds: f64,
}

/// What dispatches took so far.
struct Profile {
    /// Whether the time of the process counts.
    is_software: bool,
    times: Vec<KernelTime>,
}

thread_local! {
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Runs `work` and says what the dispatches of this crate's kernels on `device` took, in the order
/// of their first calls.
///
/// The device is waited for after each, so `work` takes longer than otherwise; operations of Burn
/// run as usual and are not counted. Only what this thread dispatches is seen, and nothing on the
/// CPU device.
pub fn profile_kernels<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Vec<KernelTime>) {
    /// Ends the profile even if `work` panics.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            PROFILE.with_borrow_mut(Option::take);
        }
    }
    let is_software = AdapterFacts::of(device).is_software;
    PROFILE.with_borrow_mut(|profile| *profile = Some(Profile { is_software, times: Vec::new() }));
    let off = Off;
    let result = work();
    let profile = PROFILE.with_borrow_mut(Option::take);
    drop(off);
    (result, profile.map(|profile| profile.times).unwrap_or_default())
}

/// Runs `dispatch`, inside a window if a profile is on.
pub(super) fn timed(name: &'static str, client: &Client, dispatch: impl FnOnce()) {
    let is_software = PROFILE.with_borrow(|profile| profile.as_ref().map(|on| on.is_software));
    let seconds = match is_software {
        None => return dispatch(),
        Some(true) => processor_seconds(client, dispatch),
        Some(false) => device_seconds(client, dispatch),
    };
    let Some(seconds) = seconds else { return };
    PROFILE.with_borrow_mut(|profile| {
        let Some(Profile { times, .. }) = profile else { return };
        match times.iter_mut().find(|time| time.name == name) {
            Some(time) => {
                time.calls += 1;
                time.seconds += seconds;
            }
            None => times.push(KernelTime { name, calls: 1, seconds }),
        }
    });
}

/// What all processors spend on this process until the device is done; `None` where the system or
/// the device does not tell.
fn processor_seconds(client: &Client, dispatch: impl FnOnce()) -> Option<f64> {
    // What was asked for before is not this kernel's.
    let is_idle = pollster::block_on(client.sync()).is_ok();
    let start = ProcessTime::try_now().ok();
    dispatch();
    let is_done = pollster::block_on(client.sync()).is_ok();
    let elapsed = start?.try_elapsed().ok()?;
    (is_idle && is_done).then_some(elapsed.as_secs_f64())
}

/// What the device spends; `None` where it does not tell.
fn device_seconds(client: &Client, dispatch: impl FnOnce()) -> Option<f64> {
    let Ok(window) = client.profile_start() else {
        dispatch();
        return None;
    };
    dispatch();
    let span = client.profile_end(window).ok()?;
    Some(pollster::block_on(span.resolve())?.duration().as_secs_f64())
}
