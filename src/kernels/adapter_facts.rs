//! What kernels choose their form by: facts of the adapter behind a device, kept when it is opened.

use super::Tier;
use burn::backend::DispatchDevice;
use burn::tensor::Device;
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::device::DeviceId;
use std::sync::{Arc, Mutex, PoisonError};

/// What an adapter offers beyond the guaranteed minimum; nothing for one that was not opened here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterFacts {
    /// Name, interface and driver.
    pub identity: String,
    /// Whether a CPU does the work.
    pub is_software: bool,
    /// 16-bit floats.
    pub has_f16: bool,
    /// Invocations of a subgroup, least and most; zero without subgroup operations.
    pub subgroup_sizes: [u32; 2],
    /// Rows, columns and depth of its matrix units with f16 factors and f32 sums; zero without.
    pub matrix_size: u32,
    /// Workgroup memory, bytes.
    pub workgroup_memory_bytes: u32,
    /// Most f32 values in one tensor; zero if unknown.
    pub max_elements: usize,
}

impl AdapterFacts {
    /// Whether a kernel of `tier` runs there.
    pub fn offers(&self, tier: Tier) -> bool {
        match tier {
            Tier::Core => true,
            Tier::Half => self.has_f16,
            // Kernels shuffle among eight lanes.
            Tier::Subgroups => self.subgroup_sizes[0] >= 8,
            Tier::Matrix => self.has_f16 && self.matrix_size > 0 && self.fixed_subgroup() > 0,
        }
    }

    /// Invocations of every subgroup; zero where their number varies.
    pub fn fixed_subgroup(&self) -> u32 {
        let [least, most] = self.subgroup_sizes;
        if least == most { most } else { 0 }
    }

    /// The facts of the adapter behind `device`.
    pub fn of(device: &Device) -> Arc<Self> {
        match device.as_dispatch() {
            DispatchDevice::Cube(device) => Self::of_cube(device),
            _ => Arc::default(),
        }
    }

    pub(crate) fn of_cube(device: &CubeDevice) -> Arc<Self> {
        Self::find(|known| known.device == *device)
    }

    /// The facts of the adapter behind `client`.
    pub(super) fn of_client(client: &Client) -> Arc<Self> {
        let id = client.service_id().device;
        Self::find(|known| known.id == id)
    }

    fn find(is_it: impl Fn(&Known) -> bool) -> Arc<Self> {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|known| is_it(known));
        found.map(|known| Arc::clone(&known.facts)).unwrap_or_default()
    }

    /// Keeps the facts of the adapter behind `device`.
    pub(crate) fn keep(self, device: &Device) {
        if let DispatchDevice::Cube(device) = device.as_dispatch() {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            let id = device.client().service_id().device;
            known.push(Known { device: device.clone(), id, facts: Arc::new(self) });
        }
    }
}

/// An open device.
struct Known {
    device: CubeDevice,
    /// What clients know it by.
    id: DeviceId,
    facts: Arc<AdapterFacts>,
}

/// A process opens few devices.
static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subgroups_of_four_are_no_tier_and_matrices_need_a_fixed_subgroup() {
        let facts = |subgroup_sizes| AdapterFacts {
            has_f16: true,
            matrix_size: 16,
            subgroup_sizes,
            ..AdapterFacts::default()
        };
        assert!(!facts([4, 4]).offers(Tier::Subgroups));
        assert!(facts([8, 64]).offers(Tier::Subgroups));
        assert!(!facts([32, 64]).offers(Tier::Matrix));
        assert!(facts([32, 32]).offers(Tier::Matrix));
        assert!(!AdapterFacts::default().offers(Tier::Half));
    }
}
