// uniform — range to grid to code, operation for operation as src/quant/uniform.rs.
//
// Needs: const BITS, const SCHEME (Scheme::index).

const SYMMETRIC: u32 = 0u;
const ASYMMETRIC: u32 = 1u;
const ASYMMETRIC_FREE: u32 = 2u;
const ASYMMETRIC_CLAMPED: u32 = 3u;
const ASYMMETRIC_REAL: u32 = 4u;
const TOP: f32 = f32((1u << BITS) - 1u);
const LOWEST_CODE: f32 = select(0.0, 1.0, SCHEME == SYMMETRIC);
const MIN_SCALE: f32 = 1e-9;
const MIN_RANGE: f32 = 1e-30; // below it a scale may be denormal, which devices flush to zero

struct Grid {
    scale: f32,
    zero_point: f32,
}

fn grid_containing_zero(least: f32, most: f32) -> Grid {
    let low = min(least, 0.0);
    let high = max(most, 0.0);
    if high - low < MIN_RANGE {
        return Grid(1.0, 0.0);
    }
    let scale = (high - low) / TOP;
    return Grid(scale, clamp(round(-low / scale), 0.0, TOP));
}

fn grid_from_range(least: f32, most: f32) -> Grid {
    if SCHEME == SYMMETRIC {
        let half = f32(1u << (BITS - 1u));
        let reach = max(abs(least), abs(most));
        return Grid(select(1.0, reach / (half - 1.0), reach >= MIN_RANGE), half);
    }
    if SCHEME == ASYMMETRIC || (SCHEME == ASYMMETRIC_FREE && most - least < MIN_RANGE) {
        return grid_containing_zero(least, most);
    }
    if SCHEME == ASYMMETRIC_FREE {
        let scale = (most - least) / TOP;
        return Grid(scale, round(-least / scale));
    }
    let scale = max((most - least) / TOP, MIN_SCALE);
    if SCHEME == ASYMMETRIC_CLAMPED {
        return Grid(scale, clamp(round(-least / scale), 0.0, TOP));
    }
    return Grid(scale, -least / scale);
}

fn code_from_value(value: f32, grid: Grid) -> f32 {
    let steps = value / grid.scale;
    if SCHEME == ASYMMETRIC_REAL {
        return clamp(round(steps + grid.zero_point), LOWEST_CODE, TOP);
    }
    return clamp(round(steps) + grid.zero_point, LOWEST_CODE, TOP);
}
