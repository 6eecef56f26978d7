//! Adapters of this machine: listing, choosing, opening, and refusing the ones that miscalculate.

use super::adapter_facts::AdapterFacts;
use super::self_test::self_test;
use burn::tensor::Device;
use burn_wgpu::WgpuSetup;
use serde::Serialize;

/// Why no device could be had; messages say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Nothing to run on.
    #[error(
        "no GPU adapter was found{wanted}; install a Vulkan, Metal, DX12 or GL driver \
         (`qvgen setup` does it on Debian), or use `--device cpu`"
    )]
    NoAdapter {
        /// " for backend gl", or nothing.
        wanted: String,
    },
    /// `--device` names nothing on this machine.
    #[error("no adapter matches `--device {wanted}`; `qvgen devices` lists: {listed}")]
    NoSuchAdapter {
        /// What was asked for.
        wanted: String,
        /// Names of what exists.
        listed: String,
    },
    /// The driver refused to open the adapter.
    #[error("{adapter} could not be opened: {message}")]
    Refused {
        /// Adapter and driver.
        adapter: String,
        /// The driver's words.
        message: String,
    },
    /// The adapter computes wrong results.
    #[error("{adapter} fails the self-test: {failure}; {remedy}")]
    Miscalculates {
        /// Adapter and driver.
        adapter: String,
        /// What it got wrong.
        failure: String,
        /// What to do.
        remedy: String,
    },
}

/// What is known of an adapter without opening it.
#[derive(Clone, Debug, Serialize)]
pub struct Adapter {
    /// Position in [`adapters`], accepted by `--device`.
    pub index: usize,
    /// Marketing name.
    pub name: String,
    /// Graphics interface: vulkan, metal, dx12 or gl.
    pub backend: String,
    /// discrete, integrated, virtual, software or other.
    pub kind: String,
    /// Driver and version.
    pub driver: String,
    /// PCI vendor.
    pub vendor: u32,
    /// 16-bit floats.
    pub has_f16: bool,
    /// Subgroup operations.
    pub has_subgroups: bool,
    /// Subgroup sizes, least and most.
    pub subgroup_sizes: [u32; 2],
    /// Rows, columns and depth of its matrix units, the largest that shaders can name with f16
    /// factors and f32 sums; zero without.
    pub matrix_size: u32,
    /// Timestamps in compute passes.
    pub has_timestamps: bool,
    /// Largest buffer that a shader can see at once, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory, bytes.
    pub workgroup_memory_bytes: u32,
    #[serde(skip)]
    instance: wgpu::Instance,
    #[serde(skip)]
    handle: wgpu::Adapter,
    #[serde(skip)]
    rank: usize,
}

impl Adapter {
    fn new(instance: &wgpu::Instance, handle: wgpu::Adapter) -> Self {
        let (info, limits, features) = (handle.get_info(), handle.limits(), handle.features());
        let (kind, kind_rank) = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => ("discrete", 0),
            wgpu::DeviceType::IntegratedGpu => ("integrated", 1),
            wgpu::DeviceType::VirtualGpu => ("virtual", 2),
            wgpu::DeviceType::Other => ("other", 3),
            wgpu::DeviceType::Cpu => ("software", 4),
        };
        let backend_rank = match info.backend {
            wgpu::Backend::Metal | wgpu::Backend::Vulkan => 0,
            wgpu::Backend::Dx12 => 1,
            _ => 2,
        };
        let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
        Self {
            index: 0,
            name: info.name,
            backend: info.backend.to_string(),
            kind: kind.to_owned(),
            driver: if driver.is_empty() { "unknown driver".to_owned() } else { driver },
            vendor: info.vendor,
            has_f16: features.contains(wgpu::Features::SHADER_F16),
            has_subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            matrix_size: matrix_size(&handle),
            has_timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            instance: instance.clone(),
            handle,
            rank: kind_rank * 4 + backend_rank,
        }
    }

    /// Whether a CPU does the work.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    /// Name, interface and driver, for messages.
    pub fn describe(&self) -> String {
        format!("{} ({}, {})", self.name, self.backend, self.driver)
    }

    /// The kernels it can run, in words.
    pub fn tier(&self) -> &'static str {
        match (self.has_f16, self.has_subgroups) {
            (true, true) if self.matrix_size > 0 => "f16+subgroups+matrices",
            (true, true) => "f16+subgroups",
            (true, false) => "f16",
            (false, true) => "subgroups",
            (false, false) => "core",
        }
    }

    /// What kernels choose their form by.
    fn facts(&self) -> AdapterFacts {
        AdapterFacts {
            identity: self.describe(),
            is_software: self.is_software(),
            has_f16: self.has_f16,
            subgroup_sizes: if self.has_subgroups { self.subgroup_sizes } else { [0, 0] },
            matrix_size: self.matrix_size,
            workgroup_memory_bytes: self.workgroup_memory_bytes,
            max_elements: self.max_elements(),
        }
    }

    /// Largest number of f32 values in one tensor.
    fn max_elements(&self) -> usize {
        addressable(self.max_binding_bytes.min(self.max_buffer_bytes))
    }

    /// Everything it has: CubeCL generates kernels for whatever the adapter offers. Mappable
    /// primary buffers are left out, they slow down discrete cards.
    fn features(&self) -> wgpu::Features {
        self.handle.features() - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
    }
}

/// See [`Adapter::matrix_size`].
fn matrix_size(adapter: &wgpu::Adapter) -> u32 {
    use wgpu::CooperativeScalarType::{F16, F32};
    if !adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return 0;
    }
    let units = adapter.cooperative_matrix_properties().into_iter();
    units
        .filter(|unit| (unit.ab_type, unit.cr_type) == (F16, F32))
        .filter(|unit| unit.m_size == unit.n_size && unit.n_size == unit.k_size)
        .map(|unit| unit.m_size)
        .filter(|size| [8, 16].contains(size))
        .max()
        .unwrap_or(0)
}

/// Dispatches that the runtime sends to the driver at once.
const TASKS_PER_SUBMISSION: usize = 8;

/// Storage buffers that the kernel with the most of them binds.
const STORAGE_BUFFERS: u32 = 8;

/// Names that `--backend` takes.
pub const BACKENDS: [&str; 4] = ["vulkan", "metal", "dx12", "gl"];

fn instance() -> wgpu::Instance {
    // No validation layers: old ones refuse every module that naga writes.
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// All adapters of this machine, of every backend, the best first.
pub fn adapters() -> Vec<Adapter> {
    let instance = instance();
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let mut adapters: Vec<Adapter> =
        found.into_iter().map(|handle| Adapter::new(&instance, handle)).collect();
    adapters.sort_by_key(|adapter| adapter.rank);
    for (index, adapter) in adapters.iter_mut().enumerate() {
        adapter.index = index;
    }
    adapters
}

/// Which device to run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The best adapter; without any, the CPU.
    #[default]
    Auto,
    /// The plain-Rust twins.
    Cpu,
    /// An adapter by index or by part of its name.
    Named(String),
}

/// A device ready for tensors.
#[derive(Debug)]
pub struct OpenDevice {
    /// Where tensors go.
    pub device: Device,
    /// The adapter behind it; `None` for the CPU.
    pub adapter: Option<Adapter>,
}

impl OpenDevice {
    /// The CPU: every kernel by its twin.
    pub fn cpu() -> Self {
        Self { device: Device::flex(), adapter: None }
    }

    /// Name and driver.
    pub fn describe(&self) -> String {
        self.adapter.as_ref().map_or_else(|| "CPU".to_owned(), Adapter::describe)
    }

    /// Largest number of f32 values in one tensor.
    pub fn max_elements(&self) -> usize {
        self.adapter.as_ref().map_or_else(|| addressable(u64::MAX), Adapter::max_elements)
    }
}

/// The f32 values in so many bytes that kernels can address: they index with u32.
fn addressable(bytes: u64) -> usize {
    usize::try_from((bytes / 4).min(u64::from(u32::MAX / 4))).unwrap_or(usize::MAX)
}

/// Chooses, opens and tests a device; `backend` narrows the choice to one of [`BACKENDS`].
///
/// # Errors
///
/// If nothing matches, the driver refuses, or the adapter fails the self-test.
pub fn open(selection: &Selection, backend: Option<&str>) -> Result<OpenDevice, DeviceError> {
    if *selection == Selection::Cpu {
        return Ok(OpenDevice::cpu());
    }
    let mut candidates = adapters();
    candidates.retain(|adapter| backend.is_none_or(|backend| adapter.backend == backend));
    if candidates.is_empty() {
        if *selection == Selection::Auto && backend.is_none() {
            log::warn!(
                "no GPU adapter was found, so the CPU is used, which is slow; `qvgen setup` \
                 installs software Vulkan on Debian"
            );
            return Ok(OpenDevice::cpu());
        }
        let wanted = backend.map(|name| format!(" for backend {name}")).unwrap_or_default();
        return Err(DeviceError::NoAdapter { wanted });
    }
    let chosen = match selection {
        Selection::Named(wanted) => find(&candidates, wanted)?,
        _ => candidates.swap_remove(0),
    };
    open_adapter(chosen)
}

fn find(adapters: &[Adapter], wanted: &str) -> Result<Adapter, DeviceError> {
    let lower = wanted.to_lowercase();
    let index = wanted.parse::<usize>().ok();
    // A number is an index first, but "4090" may also be part of a name.
    adapters
        .iter()
        .find(|adapter| Some(adapter.index) == index)
        .or_else(|| adapters.iter().find(|adapter| adapter.name.to_lowercase().contains(&lower)))
        .filter(|_| !wanted.is_empty())
        .cloned()
        .ok_or_else(|| DeviceError::NoSuchAdapter {
            wanted: wanted.to_owned(),
            listed: adapters
                .iter()
                .map(|adapter| format!("{} = {}", adapter.index, adapter.describe()))
                .collect::<Vec<_>>()
                .join(", "),
        })
}

fn open_adapter(adapter: Adapter) -> Result<OpenDevice, DeviceError> {
    let refused = |message: String| DeviceError::Refused { adapter: adapter.describe(), message };
    // SAFETY: the call asks for no memory access; it acknowledges that wgpu's experimental features
    // may have bugs in wgpu itself. Shaders only use one after naming it (cooperative matrices),
    // and CubeCL opens its own devices the same way.
    #[expect(unsafe_code, reason = "wgpu marks experimental features by an unsafe constructor")]
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let buffers = adapter.handle.limits().max_storage_buffers_per_shader_stage;
    if buffers < STORAGE_BUFFERS {
        return Err(refused(format!(
            "a shader can see {buffers} buffers there, the kernels need {STORAGE_BUFFERS}"
        )));
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("qvgen"),
        experimental_features,
        required_features: adapter.features(),
        required_limits: adapter.handle.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.handle.request_device(&descriptor))
        .map_err(|err| refused(err.to_string()))?;
    let setup = WgpuSetup {
        instance: adapter.instance.clone(),
        adapter: adapter.handle.clone(),
        device,
        queue,
        backend: adapter.handle.get_info().backend,
    };
    // Few dispatches per submission: drivers end a submission that takes seconds.
    let options = Device::wgpu_options().setup(setup).tasks_max(TASKS_PER_SUBMISSION);
    let device = options.init().map_err(|err| refused(format!("{err:?}")))?;
    adapter.facts().keep(&device);
    self_test(&device).map_err(|failure| DeviceError::Miscalculates {
        adapter: adapter.describe(),
        failure,
        remedy: remedy(&adapter),
    })?;
    Ok(OpenDevice { device, adapter: Some(adapter) })
}

fn remedy(adapter: &Adapter) -> String {
    if adapter.driver.contains("Mesa") || adapter.name.contains("llvmpipe") {
        "install Mesa 25 or newer (`qvgen setup` does it on Debian), or use `--device cpu`".into()
    } else {
        "update its driver, or choose another one with `--device`".into()
    }
}
