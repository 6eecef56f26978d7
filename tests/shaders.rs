//! Every shader in every specialization, checked and translated by naga: no GPU needed.

use naga::back::{hlsl, msl, spv};
use naga::valid::FunctionInfo;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Block, Expression, Function, Module, Statement};
use naga::{StorageAccess, TypeInner};
use qvgen::kernels::{Kernel, KernelVisitor, ParamsMirror, Tier, for_each_kernel};

/// One assembled and validated specialization.
struct Shader {
    name: String,
    tier: Tier,
    workgroup_size: u32,
    fields: &'static [(&'static str, usize)],
    params_size: usize,
    module: Module,
    info: ModuleInfo,
}

fn validated(name: &str, text: &str, tier: Tier) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|err| panic!("{name}: {}", err.emit_to_string(text)));
    let capabilities = match tier {
        Tier::Core => Capabilities::empty(),
        Tier::Half => Capabilities::SHADER_FLOAT16,
        Tier::Subgroups => Capabilities::SUBGROUP,
        Tier::Matrix => Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16,
    };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|err| panic!("{name}: {}", err.emit_to_string(text)));
    (module, info)
}

fn all() -> Vec<Shader> {
    struct Collect(Vec<Shader>);
    impl KernelVisitor for Collect {
        fn visit<K: Kernel>(&mut self) {
            let specializations = K::all();
            assert!(!specializations.is_empty(), "{} lists no specialization", K::NAME);
            for kernel in specializations {
                let name = format!("{kernel:?}");
                let (module, info) = validated(&name, &kernel.wgsl(), kernel.tier());
                self.0.push(Shader {
                    name,
                    tier: kernel.tier(),
                    workgroup_size: kernel.workgroup_size(),
                    fields: <K::Params as ParamsMirror>::FIELDS,
                    params_size: size_of::<K::Params>(),
                    module,
                    info,
                });
            }
        }
    }
    let mut collect = Collect(Vec::new());
    for_each_kernel(&mut collect);
    collect.0
}

#[test]
fn every_binding_is_used_and_numbered_in_order_with_params_last() {
    for shader in all() {
        let Shader { name, module, info, .. } = &shader;
        let entry = info.get_entry_point(0);
        let mut bindings = Vec::new();
        for (handle, variable) in module.global_variables.iter() {
            let Some(binding) = &variable.binding else { continue };
            assert!(!entry[handle].is_empty(), "{name}: {:?} is never used", variable.name);
            assert_eq!(binding.group, 0, "{name}");
            bindings.push((binding.binding, variable.space));
        }
        // A declaration comes after what it uses, so an imported function may move one forward.
        bindings.sort_by_key(|&(slot, _)| slot);
        let (slots, spaces): (Vec<_>, Vec<_>) = bindings.into_iter().unzip();
        assert!(slots.len() <= 9, "{name}: WebGPU guarantees 8 storage buffers and a uniform");
        assert!((0..).zip(&slots).all(|(i, &slot)| i == slot), "{name}: {slots:?}");
        let access = StorageAccess::LOAD | StorageAccess::STORE;
        let (last, tensors) = spaces.split_last().unwrap();
        assert_eq!(*last, AddressSpace::Uniform, "{name}: params is the last binding");
        for space in tensors {
            assert_eq!(*space, AddressSpace::Storage { access }, "{name}");
        }
    }
}

#[test]
fn entry_point_is_main_with_the_declared_workgroup_size() {
    for Shader { name, module, workgroup_size, .. } in all() {
        let [entry] = module.entry_points.as_slice() else { panic!("{name}: one entry point") };
        assert_eq!(entry.name, "main", "{name}");
        assert_eq!(entry.workgroup_size, [workgroup_size, 1, 1], "{name}");
        assert!(workgroup_size <= 256, "{name}");
    }
}

#[test]
fn params_has_the_layout_of_its_rust_mirror() {
    for Shader { name, module, fields, params_size, .. } in all() {
        let (_, ty) = module
            .types
            .iter()
            .find(|(_, ty)| ty.name.as_deref() == Some("Params"))
            .unwrap_or_else(|| panic!("{name}: no struct Params"));
        let TypeInner::Struct { members, span } = &ty.inner else { panic!("{name}: {ty:?}") };
        let found: Vec<_> =
            members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
        assert_eq!(found, fields, "{name}");
        assert_eq!(*span as usize, params_size, "{name}");
    }
}

#[test]
fn workgroup_memory_fits_the_portable_limit() {
    const PORTABLE_BYTES: u32 = 16_384;
    for Shader { name, module, tier, .. } in all() {
        let bytes: u32 = module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
            .map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()))
            .sum();
        if tier == Tier::Core {
            assert!(bytes <= PORTABLE_BYTES, "{name}: {bytes} bytes of workgroup memory");
        }
    }
}

#[test]
fn every_shader_translates_to_spirv_msl_and_hlsl() {
    for Shader { name, tier, module, info, .. } in all() {
        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        spv::write_vec(&module, &info, &options, None)
            .unwrap_or_else(|err| panic!("{name}: SPIR-V: {err}"));

        let options = msl::Options { lang_version: (2, 4), ..Default::default() };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|err| panic!("{name}: MSL: {err}"));

        // 5.1 is what the compiler in Windows takes; 16-bit floats need a newer one.
        let models = [hlsl::ShaderModel::V6_2, hlsl::ShaderModel::V5_1];
        let count = match tier {
            Tier::Core => 2,
            Tier::Half | Tier::Subgroups => 1,
            Tier::Matrix => 0, // HLSL has none
        };
        for shader_model in models.into_iter().take(count) {
            let options = hlsl::Options {
                shader_model,
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
                .write(&module, &info, None)
                .unwrap_or_else(|err| panic!("{name}: HLSL {shader_model:?}: {err}"));
        }
    }
}

/// Calls `visit` with every statement of `block`, nested ones included.
fn for_each_statement(block: &Block, visit: &mut impl FnMut(&Statement)) {
    for statement in block {
        visit(statement);
        match statement {
            Statement::Block(inner) => for_each_statement(inner, visit),
            Statement::If { accept, reject, .. } => {
                for_each_statement(accept, visit);
                for_each_statement(reject, visit);
            }
            Statement::Switch { cases, .. } => {
                cases.iter().for_each(|case| for_each_statement(&case.body, visit));
            }
            Statement::Loop { body, continuing, .. } => {
                for_each_statement(body, visit);
                for_each_statement(continuing, visit);
            }
            _ => {}
        }
    }
}

/// Whether `function` stores to a component of a vector (or a column of a matrix) that is chosen
/// at run time.
fn stores_to_a_chosen_component(module: &Module, function: &Function, info: &FunctionInfo) -> bool {
    let mut found = false;
    for_each_statement(&function.body, &mut |statement| {
        let Statement::Store { pointer, .. } = statement else { return };
        let Expression::Access { base, .. } = function.expressions[*pointer] else { return };
        found |= match info[base].ty.inner_with(&module.types) {
            TypeInner::Pointer { base, .. } => {
                let inner = &module.types[*base].inner;
                matches!(inner, TypeInner::Vector { .. } | TypeInner::Matrix { .. })
            }
            TypeInner::ValuePointer { size, .. } => size.is_some(),
            _ => false,
        };
    });
    found
}

fn offending_functions(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
    let entries = module.entry_points.iter().enumerate();
    let entries = entries.map(|(i, entry)| (&entry.function, info.get_entry_point(i)));
    functions
        .chain(entries)
        .filter(|(function, info)| stores_to_a_chosen_component(module, function, info))
        .map(|(function, _)| function.name.clone().unwrap_or_else(|| "main".to_owned()))
        .collect()
}

/// FXC, the HLSL compiler in Windows, rejects such stores or unrolls loops to get rid of them.
#[test]
fn no_shader_stores_to_a_vector_component_chosen_at_run_time() {
    for Shader { name, module, info, .. } in all() {
        let functions = offending_functions(&module, &info);
        assert!(functions.is_empty(), "{name}: {functions:?} store to a chosen component");
    }
}

#[test]
fn a_store_to_a_chosen_component_is_noticed_wherever_it_hides() {
    let shader = |store: &str| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;
            fn fill(v: ptr<function, array<vec4<f32>, 2>>, i: u32) {{
                for (var j = 0u; j < 2u; j++) {{ if i > j {{ {store} }} }}
            }}
            @compute @workgroup_size(1)
            fn main(@builtin(local_invocation_index) i: u32) {{
                var v: array<vec4<f32>, 2>;
                fill(&v, i);
                y[i] = v[0];
            }}"
        )
    };
    for (store, expected) in [
        ("(*v)[j][i] = 1.0;", 1),
        ("(*v)[1][i] += 1.0;", 1),
        ("y[j][i] = 1.0;", 1),
        ("(*v)[i] = vec4<f32>();", 0),
        ("(*v)[i].x = (*v)[j][i];", 0),
    ] {
        let (module, info) = validated(store, &shader(store), Tier::Core);
        assert_eq!(offending_functions(&module, &info).len(), expected, "{store}");
    }
}
