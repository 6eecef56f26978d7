use crate::common::{devices, wgpu_device};
use crate::{run, runs};
use burn::tensor::{DType, Device, Tensor, TensorData};
use qvgen::kernels::ceiling_arithmetic::{
    Arithmetic, CeilingArithmetic, ceiling_arithmetic, ops, reference,
};

/// Whether `device` has these matrix units, if it is about any.
fn is_of(arithmetic: Arithmetic, device: &Device) -> bool {
    !matches!(arithmetic, Arithmetic::Matrix { .. })
        || Arithmetic::matrix_of(device) == Some(arithmetic)
}

#[test]
fn ceiling_arithmetic_matches_its_twin() {
    for kernel in Arithmetic::ALL.map(|arithmetic| CeilingArithmetic { arithmetic }) {
        if !runs(kernel) || !is_of(kernel.arithmetic, &wgpu_device()) {
            continue;
        }
        for (count, steps) in [(1, 1), (255, 6), (700, 33)] {
            let params = kernel.params(count, steps);
            let grid = kernel.grid(count);
            let y = run(kernel, &[&[3]], &[count], params, grid);
            assert_eq!(y[0], reference(kernel.arithmetic, 3, params), "{kernel:?} {count} {steps}");
        }
    }
}

#[test]
fn every_step_and_every_operand_changes_the_result() {
    for arithmetic in Arithmetic::ALL {
        let kernel = CeilingArithmetic { arithmetic };
        let params = kernel.params(40, 5);
        let expected = reference(arithmetic, 3, params);
        for changed in [
            qvgen::kernels::ceiling_arithmetic::Params { steps: 4, ..params },
            qvgen::kernels::ceiling_arithmetic::Params { factor: params.factor + 1, ..params },
            qvgen::kernels::ceiling_arithmetic::Params { term: params.term + 1, ..params },
        ] {
            assert_ne!(reference(arithmetic, 3, changed), expected, "{changed:?}");
        }
        assert_ne!(reference(arithmetic, 4, params), expected);
    }
}

#[test]
fn ceiling_arithmetic_runs_on_all_devices() {
    for (name, device) in devices() {
        for arithmetic in Arithmetic::ALL {
            let has_f16 = device.supports_dtype(DType::F16);
            if arithmetic == Arithmetic::F16 && !has_f16 || !is_of(arithmetic, &device) {
                continue;
            }
            let seed = Tensor::from_data(TensorData::new(vec![2_i32], [1]), &device);
            let y = ceiling_arithmetic(seed, arithmetic, 300, 7).into_data();
            let y: Vec<u32> = bytemuck::cast_vec(y.try_to_vec::<i32>().unwrap());
            let params = CeilingArithmetic { arithmetic }.params(300, 7);
            assert_eq!(y, reference(arithmetic, 2, params), "{arithmetic:?} on {name}");
        }
    }
}

#[test]
fn operations_are_two_per_product() {
    assert_eq!(ops(Arithmetic::F32, 10, 3), 10.0 * 3.0 * 32.0 * 2.0);
    assert_eq!(ops(Arithmetic::Dot4, 10, 3), 10.0 * 3.0 * 32.0 * 8.0);
    let matrix = Arithmetic::Matrix { size: 16, subgroup: 32 };
    assert_eq!(ops(matrix, 64, 3), 2.0 * 3.0 * 8.0 * 2.0 * 4096.0);
}
