// orthonormalize — q_j = y / ‖y‖ with y = x_j − Σ_{i<j} (q_i·x_j) q_i; 0 where nothing is left.
//
//   x  [R, N]  f32   vectors, one per row; magnitudes are 0 or in 2⁻¹²⁶ … 2¹²⁶
//   q  [R, N]  f32   result: rows of length 1 or 0, orthogonal to each other
//
// Gram-Schmidt, applied twice to each row, against blocks of 8 earlier rows. One workgroup does
// all: an invocation owns elements lane, lane + WORKGROUP_SIZE, … of every row, so that nothing but
// sums passes between invocations, and no dispatch waits for another. R is meant to be small
// (below 200): the work is 4·N·R² operations. A row that is not finite is copied, so that it shows.
// Workgroup memory: 34·WORKGROUP_SIZE + 4 bytes.
// Constants: WORKGROUP_SIZE (a multiple of 16).
// Dispatch:  one workgroup.
// Twin:      kernels::orthonormalize::reference

struct Params {
    rows: u32,
    len: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> q: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const BLOCK: u32 = 8u;
// Sums that one invocation adds up, so that a reduction takes two barriers and not one per halving.
const RUN: u32 = 16u;
const RUNS: u32 = WORKGROUP_SIZE / RUN;
const INFINITY_BITS: u32 = 0x7F800000u;
// (2⁻²¹)²: what rounding leaves of a vector that the earlier ones span is below 2⁻²² of its length.
const DEPENDENT: f32 = 2.2737368e-13;

// Products with eight rows.
struct Dots {
    a: vec4<f32>,
    b: vec4<f32>,
}

var<workgroup> partials: array<vec4<f32>, 2u * WORKGROUP_SIZE>;
var<workgroup> sums: array<vec4<f32>, 2u * RUNS>;
var<workgroup> largest_bits: atomic<u32>;

// The sums of `value` over the workgroup, for all invocations. Needs no barrier around it: a write
// and the reads before it are always one of its two barriers apart.
fn workgroup_dots(value: Dots, lane: u32) -> Dots {
    partials[lane] = value.a;
    partials[WORKGROUP_SIZE + lane] = value.b;
    workgroupBarrier();
    if lane < 2u * RUNS {
        var total = vec4<f32>();
        for (var i = 0u; i < RUN; i++) {
            total += partials[lane * RUN + i];
        }
        sums[lane] = total;
    }
    workgroupBarrier();
    var result = Dots(vec4<f32>(), vec4<f32>());
    for (var i = 0u; i < RUNS; i++) {
        result.a += sums[i];
        result.b += sums[RUNS + i];
    }
    return result;
}

// Bits of the largest magnitude in row `row` of x; as integers they are ordered as the floats are,
// with infinity and NaN above all.
fn largest_magnitude_bits(row: u32, lane: u32) -> u32 {
    if lane == 0u {
        atomicStore(&largest_bits, 0u);
    }
    workgroupBarrier();
    var largest = 0u;
    for (var k = lane; k < params.len; k += WORKGROUP_SIZE) {
        largest = max(largest, bitcast<u32>(x[row * params.len + k]) & 0x7FFFFFFFu);
    }
    atomicMax(&largest_bits, largest);
    workgroupBarrier();
    return atomicLoad(&largest_bits);
}

fn four_rows(at: vec4<u32>, k: u32) -> vec4<f32> {
    return vec4<f32>(q[at.x + k], q[at.y + k], q[at.z + k], q[at.w + k]);
}

// Takes from row `row` what it has in common with those of rows `first` … `first + 7` that come
// before it. For `first` = `row` these are none; then the result is its squared length.
fn remove_block(row: u32, first: u32, lane: u32) -> f32 {
    let rows_a = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    let rows_b = rows_a + vec4<u32>(4u);
    // Rows that are not there yet are replaced by this one, and removed with a factor of 0.
    let last = vec4<u32>(row);
    let at_a = min(rows_a, last) * params.len;
    let at_b = min(rows_b, last) * params.len;
    var dots = Dots(vec4<f32>(), vec4<f32>());
    for (var k = lane; k < params.len; k += WORKGROUP_SIZE) {
        let y = q[row * params.len + k];
        dots.a += y * four_rows(at_a, k);
        dots.b += y * four_rows(at_b, k);
    }
    dots = workgroup_dots(dots, lane);
    let a = select(vec4<f32>(), dots.a, rows_a < last);
    let b = select(vec4<f32>(), dots.b, rows_b < last);
    for (var k = lane; k < params.len; k += WORKGROUP_SIZE) {
        q[row * params.len + k] -= dot(a, four_rows(at_a, k)) + dot(b, four_rows(at_b, k));
    }
    return dots.a.x;
}

// Measures the row, removes every block twice, and measures what is left: (before, after), squared.
// One loop, so that compilers that inline everything do so once.
fn remove_earlier_rows(row: u32, lane: u32) -> vec2<f32> {
    let blocks = (row + BLOCK - 1u) / BLOCK;
    var squares = vec2<f32>();
    for (var step = 0u; step < 2u * blocks + 2u; step++) {
        let is_measure = step == 0u || step == 2u * blocks + 1u;
        let block = (step + blocks - 1u) % max(blocks, 1u);
        squares.y = remove_block(row, select(block * BLOCK, row, is_measure), lane);
        squares.x = select(squares.x, squares.y, step == 0u);
    }
    return squares;
}

fn orthonormalize_row(row: u32, lane: u32) {
    let bits = largest_magnitude_bits(row, lane);
    let is_finite = bits < INFINITY_BITS;
    // Squares of values near 1 neither overflow nor vanish.
    let largest = select(1.0, bitcast<f32>(bits), is_finite && bits > 0u);
    for (var k = lane; k < params.len; k += WORKGROUP_SIZE) {
        let i = row * params.len + k;
        q[i] = x[i] / largest;
    }
    let squares = remove_earlier_rows(row, lane);
    let factor = select(0.0, inverseSqrt(squares.y), squares.y > DEPENDENT * squares.x);
    for (var k = lane; k < params.len; k += WORKGROUP_SIZE) {
        let i = row * params.len + k;
        if is_finite {
            q[i] *= factor;
        } else {
            q[i] = x[i];
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var row = 0u; row < params.rows; row++) {
        orthonormalize_row(row, lane);
    }
}
