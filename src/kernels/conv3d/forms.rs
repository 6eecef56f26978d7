//! The form of the convolution that a device runs, in dispatches that end before a watchdog wakes.

use super::{Conv3d, Conv3dRows, Params};
use crate::kernels::conv3d_matrix::Conv3dMatrix;
use crate::kernels::conv3d_tile::Conv3dTile;
use crate::kernels::element::Element;
use crate::kernels::launch::{MAX_DISPATCH_OPS, launch, linear_grid, u32_from};
use crate::kernels::{AdapterFacts, Kernel, Tier};
use burn_cubecl::tensor::CubeTensor;

/// What a whole convolution, or a gradient of one, asks of a form.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Work {
    /// Workgroups.
    pub workgroups: usize,
    /// Multiplications and additions of each.
    pub ops: u64,
}

impl Work {
    /// `params` of the dispatches that together do everything, each of at most `max_ops`, but one
    /// workgroup.
    fn dispatches(self, params: Params, max_ops: u64) -> impl Iterator<Item = Params> {
        let Self { workgroups, ops } = self;
        let most = usize::try_from(max_ops / ops.max(1)).unwrap_or(usize::MAX);
        let most = most.clamp(1, workgroups.max(1));
        (0..workgroups).step_by(most).map(move |first| Params {
            first_workgroup: u32_from(first),
            end_workgroup: u32_from(workgroups.min(first + most)),
            ..params
        })
    }

    /// Runs `kernel`; tensors in binding order, `params` but for its range of workgroups.
    pub(in crate::kernels) fn launch<K: Kernel<Params = Params>>(
        self,
        kernel: K,
        reads: &[&CubeTensor],
        writes: &[&CubeTensor],
        params: Params,
    ) {
        for params in self.dispatches(params, MAX_DISPATCH_OPS) {
            let grid = linear_grid((params.end_workgroup - params.first_workgroup) as usize);
            launch(kernel, reads, writes, params, grid);
        }
    }
}

impl Conv3d {
    /// Multiplications and additions of one output value.
    pub(in crate::kernels) fn ops_per_output(&self, params: &Params) -> u64 {
        2 * self.taps() as u64 * u64::from(params.in_channels)
    }
}

/// Computes `y` of `[x, history, w, bias]` in the form for its device and the type of `w`.
pub(super) fn run(conv: Conv3d, reads: &[&CubeTensor], y: &CubeTensor, params: Params) {
    let facts = AdapterFacts::of_cube(&y.device);
    let element = Element::of(reads[2].dtype);
    if element == Element::F16
        && let Some(kernel) = Conv3dMatrix::on(&facts, conv, params.out_channels)
    {
        kernel.work(&params).launch(kernel, reads, &[y], params);
    } else if facts.is_software && element == Element::F32 {
        let Conv3d { window: [_, height, width], out_block } = conv;
        let kernel = Conv3dRows {
            window: [height, width],
            out_block,
            adjacent: params.stride_w == 1 && width > 1,
            shared_weights: facts.offers(Tier::Subgroups),
        };
        kernel.work(&params).launch(kernel, reads, &[y], params);
    } else {
        let kernel = Conv3dTile::new(conv, params.out_channels, element);
        kernel.work(&params).launch(kernel, reads, &[y], params);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    #[test]
    fn dispatches_cover_all_workgroups_once_and_keep_to_the_limit() {
        let ranges = |work: Work, max_ops| -> Vec<[u32; 2]> {
            let dispatches = work.dispatches(Params::zeroed(), max_ops);
            dispatches.map(|params| [params.first_workgroup, params.end_workgroup]).collect()
        };
        let work = Work { workgroups: 10, ops: 100 };
        assert_eq!(ranges(work, 400), [[0, 4], [4, 8], [8, 10]]);
        assert_eq!(ranges(work, 1000), [[0, 10]]);
        assert_eq!(ranges(Work { workgroups: 2, ops: 100 }, 1), [[0, 1], [1, 2]]);
    }
}
