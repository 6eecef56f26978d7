// log_sum_exp — softmax by powers of two: its constants, and the logarithm of a row's sum.
//
// Scores are kept in units of ln 2, that is multiplied by LOG2_E.

const F32_LOWEST: f32 = -3.4028234e38;
const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;

// ln Σ exp(score), where `total` is Σ 2^(score − maximum); no number if `total` is none.
fn log_sum_exp(maximum: f32, total: f32) -> f32 {
    // Some drivers have a number for the exponential or the logarithm of a NaN.
    let bits = bitcast<u32>(total);
    let is_number = (bits & 0x7F800000u) != 0x7F800000u;
    let result = bitcast<u32>((maximum + log2(total)) * LN_2);
    return bitcast<f32>(select(bits | 0x7FC00000u, result, is_number));
}
