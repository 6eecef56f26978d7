// self_test — facts a device must get right before its results are believed.
//
//   seed    [1]  u32   LOOPS, from memory so that no compiler folds the loop away
//   result  [8]  u32   0 a sum of 1 over a loop of LOOPS iterations (some drivers stop early)
//                      1 dot4U8Packed of known bytes
//                      2 round(0.5), 3 round(1.5), 4 round(2.5): ties to even
//                      5 a signed product beyond 2^31, which wraps around
//                      6 a sum over the workgroup by a tree with barriers
//                      7 the lowest bit of LOOPS, shifted up by 31 and down again
//
// Constants: WORKGROUP_SIZE. Dispatch: one workgroup. Twin: kernels::self_test::EXPECTED

#import reduce

struct Params {
    half: f32,
}

@group(0) @binding(0) var<storage, read_write> seed: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    let total = workgroup_sum(vec2<f32>(f32(lane), 0.0), lane).x;
    if lane != 0u {
        return;
    }
    let loops = seed[0];
    var sum = 0u;
    for (var i = 0u; i < loops; i++) {
        sum += 1u + (i & (loops >> 31u));
    }
    result[0] = sum;
    result[1] = dot4U8Packed(loops | 0xFF000000u, 0xFF010203u);
    result[2] = u32(round(params.half));
    result[3] = u32(round(params.half + 1.0));
    result[4] = u32(round(params.half + 2.0));
    result[5] = bitcast<u32>(i32(loops) * 0x10001i);
    result[6] = u32(total);
    result[7] = (loops << 31u) >> 31u;
}
