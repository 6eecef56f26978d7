use crate::common::{assert_close, devices};
use crate::run;
use crate::{floats, values, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::rope::{Params, Rope, reference, rope};
use qvgen::kernels::{Kernel, linear_grid};

/// `(tokens, heads, pairs)`: one pair, odd counts, several workgroups with a tail.
const SHAPES: [(u32, u32, u32); 4] = [(1, 1, 1), (5, 3, 2), (7, 2, 11), (33, 12, 5)];

#[test]
fn rope_matches_its_twin() {
    for (tokens, heads, pairs) in SHAPES {
        let params = Params { tokens, heads, pairs };
        let (len, angles) = ((2 * tokens * heads * pairs) as usize, (tokens * pairs) as usize);
        let (x, cos, sin) = (values(len, 1), values(angles, 2), values(angles, 3));
        let actual = run(
            Rope,
            &[words(&x), words(&cos), words(&sin)],
            &[len],
            params,
            linear_grid((len / 2).div_ceil(Rope.workgroup_size() as usize)),
        );
        let expected = reference(&x, &cos, &sin, params);
        assert_close(&format!("{params:?}"), floats(&actual[0]), &expected, 1e-6, 1e-6);
    }
}

#[test]
fn rope_rotates_neighboring_channels_of_every_head() {
    let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]); // a quarter turn, then none
    let params = Params { tokens: 1, heads: 2, pairs: 2 };
    let y = reference(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &cos, &sin, params);
    assert_eq!(y, [-2.0, 1.0, 3.0, 4.0, -6.0, 5.0, 7.0, 8.0]);
}

#[test]
fn rope_agrees_on_all_devices_for_a_slice_of_tokens() {
    let (tokens, heads, pairs) = (9, 2, 3);
    let [cpu, wgpu] = devices().map(|(_, device)| {
        let tensor = |width: usize, seed| {
            let data = TensorData::new(values((tokens + 4) * width, seed), [tokens + 4, width]);
            Tensor::<2>::from_data(data, &device).narrow(0, 3, tokens)
        };
        let y = rope(tensor(2 * heads * pairs, 1), tensor(pairs, 2), tensor(pairs, 3));
        assert_eq!(y.dims(), [tokens, 2 * heads * pairs]);
        y.into_data().try_to_vec::<f32>().unwrap()
    });
    assert_close("rope", &wgpu, &cpu, 1e-6, 1e-6);
}

#[test]
fn the_gradient_of_rope_is_its_transpose_on_all_devices() {
    let (tokens, heads, pairs) = (7, 3, 5);
    let width = 2 * heads * pairs;
    for (name, device) in devices() {
        let device = device.autodiff();
        let [x, d_y] = [(1, width), (4, width)]
            .map(|(seed, width)| crate::matrix(&values(tokens * width, seed), width, &device));
        let [cos, sin] = [2, 3].map(|seed| {
            crate::matrix(&values(tokens * pairs, seed), pairs, &device).require_grad()
        });
        // Constants need no gradient: the loss would have none.
        let loss = |x| (rope(x, cos.clone(), sin.clone()) * d_y.clone()).sum();
        let constant = loss(x.clone()).into_scalar::<f32>();
        let x = x.require_grad();
        let d_x = x.grad(&loss(x.clone()).backward()).expect("a gradient");
        // The loss is linear in x, so that it is the product of x and its gradient.
        let product = (x.inner() * d_x.clone()).sum().into_scalar::<f32>();
        assert_close(name, &[product], &[constant], 1e-5, 1e-5);
        let data = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().unwrap();
        let (d_y, cos, sin) = (data(d_y.clone()), data(cos.clone()), data(sin.clone()));
        let expected: Vec<f32> = (0..tokens * width)
            .map(|i| {
                let angle = i / width * pairs + i / 2 % pairs;
                let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
                d_y[i] * cos[angle] + sign * d_y[i ^ 1] * sin[angle]
            })
            .collect();
        assert_close(name, &data(d_x), &expected, 1e-6, 1e-6);
    }
}
