// conv3d_frames — what a 3-D convolution and its gradients share: the parameters, and which frame
// a tap reads. Needs: the binding `params`. To be imported below the bindings, which naga numbers in
// the order in which functions use them.

struct Params {
    in_channels: u32,
    in_frames: u32,
    in_height: u32,
    in_width: u32,
    history_frames: u32,
    out_channels: u32,
    out_frames: u32,
    out_height: u32,
    out_width: u32,
    stride_t: u32,
    stride_h: u32,
    stride_w: u32,
    pad_t: u32,
    pad_h: u32,
    pad_w: u32,
    upsample_shift: u32,
    kernel_t: u32,
    accumulate: u32,
    first_workgroup: u32,
    end_workgroup: u32,
}

struct Frame {
    start: u32,        // of the frame in channel 0
    channel_stride: u32,
    in_history: bool,
    exists: bool,
}

// The input frame that tap `tap_t` of output frame `frame` reads: the same for a whole workgroup.
fn frame_at(frame: u32, tap_t: u32) -> Frame {
    let plane = params.in_height * params.in_width;
    let t = i32(frame * params.stride_t + tap_t) - i32(params.pad_t);
    if t < 0 {
        let past = t + i32(params.history_frames);
        return Frame(u32(max(past, 0)) * plane, params.history_frames * plane, true, past >= 0);
    }
    return Frame(u32(t) * plane, params.in_frames * plane, false, t < i32(params.in_frames));
}
