use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::{Int, Tensor, TensorData};
use qvgen::kernels::relative_attention::{
    Params, RelativeAttention, reference, relative_attention,
};

/// `(tokens, heads, head_dim)`: one token, tails, several chunks of keys, channels in two blocks.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (9, 2, 16), (150, 3, 5), (70, 1, 130)];

/// Rows of the table: a few, so that each serves several distances.
fn buckets(tokens: usize) -> Vec<u32> {
    (0..2 * tokens - 1).map(|i| (i * 5 % 7) as u32).collect()
}

#[test]
fn relative_attention_matches_its_twin() {
    for (tokens, heads, head_dim) in SHAPES {
        let len = tokens * heads * head_dim;
        let [q, k, v] = [3, 4, 5].map(|seed| values(len, seed));
        let (table, buckets) = (values(7 * heads, 6), buckets(tokens));
        let [t, h, d] = [tokens, heads, head_dim].map(|size| size as u32);
        let params = Params { tokens: t, heads: h, head_dim: d };
        let inputs = [words(&q), words(&k), words(&v), words(&table), &buckets];
        let actual = run(RelativeAttention, &inputs, &[len], params, params.grid());
        let expected = reference([&q, &k, &v], &table, &buckets, params);
        assert_close(&format!("{params:?}"), floats(&actual[0]), &expected, 1e-5, 1e-5);
    }
}

#[test]
fn relative_attention_is_its_definition() {
    let (tokens, heads, head_dim) = (6, 2, 3);
    let width = heads * head_dim;
    let [q, k, v] = [3, 4, 5].map(|seed| values(tokens * width, seed));
    let (table, buckets) = (values(7 * heads, 6), buckets(tokens));
    let mut expected = vec![0.0_f32; tokens * width];
    for query in 0..tokens {
        for head in 0..heads {
            let channels = head * head_dim..(head + 1) * head_dim;
            let score = |key: usize| -> f64 {
                let products = channels
                    .clone()
                    .map(|c| f64::from(q[query * width + c]) * f64::from(k[key * width + c]));
                let bucket = buckets[key + tokens - 1 - query] as usize;
                products.sum::<f64>() + f64::from(table[bucket * heads + head])
            };
            let weights: Vec<f64> = (0..tokens).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in channels.clone() {
                let sum: f64 =
                    (0..tokens).map(|key| weights[key] * f64::from(v[key * width + c])).sum();
                expected[query * width + c] = (sum / total) as f32;
            }
        }
    }
    for (name, device) in devices() {
        let [q, k, v] = [&q, &k, &v].map(|values| matrix(values, width, &device));
        let rows: Vec<i32> = buckets.iter().map(|bucket| *bucket as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [2 * tokens - 1]), &device);
        let o = relative_attention(q, k, v, matrix(&table, heads, &device), rows);
        let actual: Vec<f32> = o.into_data().try_to_vec().unwrap();
        assert_close(name, &actual, &expected, 1e-5, 1e-5);
    }
}
