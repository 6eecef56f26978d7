use crate::{floats, half_words, run, runs, values, words};
use qvgen::kernels::quantize_heads::{HeadCodes, Params, QuantizeHeads, reference};
use qvgen::kernels::{Element, Kernel};

fn on_gpu(kernel: QuantizeHeads, params: Params, x: &[u32], mean: &[f32]) -> Vec<HeadCodes> {
    let heads = (params.tokens * params.heads) as usize;
    let head_dim = kernel.head_dim as usize;
    let lens = [heads * head_dim / 4, 2 * heads];
    let outputs = run(kernel, &[x, words(mean)], &lens, params, kernel.grid(params));
    let codes: Vec<i8> = bytemuck::cast_slice(&outputs[0]).to_vec();
    let codes = codes.chunks_exact(head_dim);
    codes
        .zip(floats(&outputs[1]).as_chunks::<2>().0)
        .map(|(codes, &[scale, product])| HeadCodes { codes: codes.to_vec(), scale, product })
        .collect()
}

#[test]
fn quantize_heads_matches_its_twin() {
    for kernel in QuantizeHeads::all() {
        if !runs(kernel) {
            continue;
        }
        for (tokens, heads) in [(1, 1), (5, 3), (67, 2)] {
            let params = Params { tokens, heads };
            let len = (tokens * heads * kernel.head_dim) as usize;
            let mut x = values(len, 1);
            x[..kernel.head_dim as usize].fill(0.0);
            let (half, rounded) = half_words(&x);
            let (x, bits) = match kernel.element {
                Element::F32 => (x.clone(), words(&x).to_vec()),
                Element::F16 => (rounded, half),
            };
            let mean = values((heads * kernel.head_dim) as usize, 2);
            let expected = reference(kernel, &x, &mean, params);
            for (i, (a, e)) in
                on_gpu(kernel, params, &bits, &mean).iter().zip(&expected).enumerate()
            {
                let close = |a: f32, e: f32| (a - e).abs() <= 1e-5 * (1.0 + e.abs());
                assert!(close(a.scale, e.scale) && close(a.product, e.product), "{i}: {a:?} {e:?}");
                let differ = a.codes.iter().zip(&e.codes).filter(|(a, e)| a != e).count();
                let far = a.codes.iter().zip(&e.codes).any(|(&a, &e)| (a - e).abs() > 1);
                assert!(!far && differ <= 1, "{kernel:?} head {i}: {:?} {:?}", a.codes, e.codes);
            }
        }
    }
}

#[test]
fn a_head_that_holds_no_number_gets_no_scale_and_its_neighbors_do() {
    let params = Params { tokens: 3, heads: 2 };
    for (bad, center) in [(f32::NAN, true), (f32::INFINITY, false)] {
        let kernel = QuantizeHeads { head_dim: 16, element: Element::F32, center };
        let mut x = values(96, 1);
        x[35] = bad;
        let heads = on_gpu(kernel, params, words(&x), &[0.0; 32]);
        for (i, head) in heads.iter().enumerate() {
            assert_eq!(head.scale.is_nan(), i == 2, "{bad} head {i}");
        }
    }
}
