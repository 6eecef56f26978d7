//! The round trip: what is rendered is read, whatever is done to the pixels in between.

use super::rng::Rng;
use super::*;

/// Nearly normal noise of that standard deviation: twelve uniform numbers (Irwin–Hall).
fn with_noise(clip: &Clip, deviation: f64, seed: u64) -> Clip {
    let mut rng = Rng::new(seed);
    let mut normal = || (0..12).map(|_| rng.uniform(-0.5, 0.5)).sum::<f64>();
    changed(clip, |_, byte| f64::from(byte) + deviation * normal())
}

/// Every byte by a function of its place and itself.
fn changed(clip: &Clip, mut change: impl FnMut(usize, u8) -> f64) -> Clip {
    let bytes = clip.pixels().iter().enumerate();
    let pixels = bytes.map(|(i, byte)| change(i, *byte).round().clamp(0.0, 255.0) as u8).collect();
    let [frames, height, width] = clip.shape();
    Clip::new(frames, height, width, pixels).expect("a clip")
}

/// A window of 3x3 with weights 1 2 1 in each direction, that many times.
fn blurred(clip: &Clip, times: usize) -> Clip {
    let [_, height, width] = clip.shape();
    let mut clip = clip.clone();
    for _ in 0..times {
        let old = clip.clone();
        clip = changed(&clip, |i, _| {
            let (c, x, y, t) =
                (i % 3, i / 3 % width, i / 3 / width % height, i / 3 / width / height);
            let rows = [(y.saturating_sub(1), 1.0), (y, 2.0), ((y + 1).min(height - 1), 1.0)];
            let columns = [(x.saturating_sub(1), 1.0), (x, 2.0), ((x + 1).min(width - 1), 1.0)];
            let line = |y: usize| columns.map(|(x, w)| w * old.rgb(t, y, x)[c]).iter().sum::<f64>();
            rows.map(|(y, w)| w * line(y)).iter().sum::<f64>() / 16.0
        });
    }
    clip
}

/// Shares of scenes in which shape, colour, background and motion are read, and all of them.
fn shares(scenes: usize, shape: [usize; 3], damage: impl Fn(&Clip, u64) -> Clip) -> [f64; 5] {
    let mut right = [0_usize; 5];
    for seed in 0..scenes as u64 {
        let scene = Scene::random(Split::All, seed);
        let clip = damage(&render(&scene, shape[0], shape[1], shape[2]), seed);
        let seen = read(&clip);
        let caption = scene.caption;
        let parts = [
            seen.shape == Some(caption.shape),
            seen.color == Some(caption.color),
            seen.background == Some(caption.background),
            seen.motion == Some(caption.motion),
            seen.caption() == Some(caption),
        ];
        right.iter_mut().zip(parts).for_each(|(count, part)| *count += usize::from(part));
    }
    right.map(|count| count as f64 / scenes as f64)
}

const DEFAULT: [usize; 3] = [FRAMES, SIDE, SIDE];

#[track_caller]
fn at_least(shares: [f64; 5], least: f64) {
    assert!(shares.iter().all(|share| *share >= least), "{shares:?} is not all {least} and more");
}

#[test]
fn every_caption_is_read_from_its_clip() {
    for caption in Caption::all() {
        let clip = render(&Scene::with_caption(caption, 1), FRAMES, SIDE, SIDE);
        assert_eq!(read(&clip).caption(), Some(caption));
        let scores = Scores::of(caption, &clip);
        assert!(scores.all && scores.confidence > 0.7, "{caption}: {scores:?}");
    }
}

#[test]
fn noise_is_no_obstacle() {
    at_least(shares(300, DEFAULT, |clip, seed| with_noise(clip, 12.0, seed)), 0.99);
}

#[test]
fn blur_is_no_obstacle() {
    // Twice 1 2 1 has a standard deviation of one pixel.
    at_least(shares(120, DEFAULT, |clip, _| blurred(clip, 2)), 0.99);
}

#[test]
fn a_shift_of_colour_is_no_obstacle() {
    for sign in [1.0, -1.0] {
        let shift = [0.05 * sign, -0.05 * sign, 0.05 * sign];
        let stronger =
            |clip: &Clip, _| changed(clip, |i, byte| f64::from(byte) * (1.0 + shift[i % 3]));
        let lighter =
            |clip: &Clip, _| changed(clip, |i, byte| f64::from(byte) + 255.0 * shift[i % 3]);
        at_least(shares(100, DEFAULT, stronger), 0.99);
        at_least(shares(100, DEFAULT, lighter), 0.99);
    }
}

#[test]
fn all_of_it_together_is_no_obstacle() {
    let damage = |clip: &Clip, seed: u64| {
        let shift = [12.0, -12.0, 12.0];
        let tinted = changed(&blurred(clip, 2), |i, byte| f64::from(byte) + shift[i % 3]);
        with_noise(&tinted, 12.0, seed)
    };
    at_least(shares(120, DEFAULT, damage), 0.99);
}

#[test]
fn other_sizes_are_read_too() {
    for shape in [[9, 32, 32], [5, 48, 80], [17, 96, 64], [2, 64, 64], [9, 128, 128]] {
        at_least(shares(60, shape, |clip, _| clip.clone()), 0.98);
    }
}

#[test]
fn the_object_never_touches_the_border() {
    for seed in 0..200 {
        let scene = Scene::random(Split::All, seed);
        let clip = render(&scene, FRAMES, SIDE, SIDE);
        let empty = clip.frame(0);
        let corner = |y: usize| &empty[y * SIDE * 3..y * SIDE * 3 + 3];
        for t in 0..FRAMES {
            for y in 0..SIDE {
                let line = &clip.frame(t)[y * SIDE * 3..(y + 1) * SIDE * 3];
                assert_eq!((&line[..3], &line[(SIDE - 1) * 3..]), (corner(y), corner(y)));
            }
        }
    }
}

#[test]
fn the_track_is_true_to_a_tenth_of_a_pixel() {
    for seed in 0..100 {
        let scene = Scene::random(Split::All, seed);
        let seen = read(&render(&scene, FRAMES, SIDE, SIDE));
        for (t, point) in seen.track.iter().enumerate() {
            let truth = scene.center(t as f64 / (FRAMES - 1) as f64);
            let point = point.expect("an object");
            let error = (point[0] - truth[0]).hypot(point[1] - truth[1]) * SIDE as f64;
            assert!(error < 0.1, "{}: {error} pixels", scene.caption);
        }
    }
}

#[test]
fn rendering_is_the_same_everywhere() {
    // FNV-1a of the first scenes; a change here changes every data set.
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for seed in 0..20 {
        for byte in render(&Scene::random(Split::Training, seed), FRAMES, SIDE, SIDE).pixels() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    assert_eq!(hash, 11_705_512_200_423_316_294);
}

#[test]
fn splits_hold_what_they_say() {
    for seed in 0..200 {
        assert!(!Scene::random(Split::Training, seed).is_held_out());
        assert!(Scene::random(Split::HeldOut, seed).is_held_out());
    }
}

#[test]
fn nothing_is_read_from_nothing() {
    let gray = Clip::new(9, 64, 64, vec![110; 9 * 64 * 64 * 3]).expect("a clip");
    let seen = read(&gray);
    assert_eq!(seen.background, Some(Background::Gray));
    assert_eq!((seen.shape, seen.color, seen.motion, seen.travel), (None, None, None, None));
    assert_eq!(seen.confidence, 0.0);
    for shape in [[0, 64, 64], [9, 0, 64], [9, 64, 0], [1, 1, 1]] {
        let clip =
            Clip::new(shape[0], shape[1], shape[2], vec![7; shape.iter().product::<usize>() * 3]);
        let seen = read(&clip.expect("a clip"));
        assert_eq!((seen.caption(), seen.confidence), (None, 0.0));
    }
    let noise = with_noise(&gray, 90.0, 3);
    assert_eq!(read(&noise).caption(), None);
}

#[test]
fn one_frame_has_no_motion() {
    let scene = Scene::random(Split::All, 3);
    let seen = read(&render(&scene, 1, SIDE, SIDE));
    assert_eq!((seen.motion, seen.travel), (None, None));
    assert_eq!(seen.shape, Some(scene.caption.shape));
    let scores = Scores::of(scene.caption, &render(&scene, 1, SIDE, SIDE));
    assert_eq!((scores.dynamic_degree, scores.background_consistency), (None, None));
    assert_eq!((scores.motion_smoothness, scores.subject_consistency), (None, None));
}

fn caption(text: &str) -> Caption {
    Caption::parse(text).expect("a caption")
}

#[test]
fn wrong_clips_are_told_from_right_ones() {
    let asked = caption("a red circle moves right over a blue background");
    let score = |text: &str| {
        let clip = render(&Scene::with_caption(caption(text), 5), FRAMES, SIDE, SIDE);
        let scores = Scores::of(asked, &clip);
        [scores.shape, scores.color, scores.direction, scores.speed, scores.background, scores.all]
    };
    let [y, n] = [true, false];
    assert_eq!(score("a red circle moves right over a blue background"), [y, y, y, y, y, y]);
    assert_eq!(score("a red square moves right over a blue background"), [n, y, y, y, y, n]);
    assert_eq!(score("a white circle moves right over a blue background"), [y, n, y, y, y, n]);
    assert_eq!(score("a red circle moves left over a blue background"), [y, y, n, n, y, n]);
    assert_eq!(score("a red circle moves right fast over a blue background"), [y, y, y, n, y, n]);
    assert_eq!(score("a red circle stays still over a blue background"), [y, y, n, n, y, n]);
    assert_eq!(score("a red circle moves right over a black background"), [y, y, y, y, n, n]);
}

#[test]
fn perfect_clips_score_near_one() {
    for seed in 0..200 {
        let scene = Scene::random(Split::All, seed);
        let scores = Scores::of(scene.caption, &render(&scene, FRAMES, SIDE, SIDE));
        let degree = scores.dynamic_degree.expect("a way");
        let ideal = if scene.caption.motion == Motion::Still { 0.0 } else { 1.0 };
        assert!((degree - ideal).abs() < 0.02, "{scores:?}");
        assert!(scores.motion_smoothness.is_some_and(|score| score > 0.98), "{scores:?}");
        assert!(scores.frame_smoothness.is_some_and(|score| score > 0.95), "{scores:?}");
        assert!(scores.subject_consistency.is_some_and(|score| score > 0.99), "{scores:?}");
        assert_eq!(scores.background_consistency, Some(1.0));
    }
}

/// The frames of one clip in another order, or taken from several.
fn montage(frames: &[(&Clip, usize)]) -> Clip {
    let pixels = frames.iter().flat_map(|(clip, t)| clip.frame(*t).to_vec()).collect();
    Clip::new(frames.len(), SIDE, SIDE, pixels).expect("a clip")
}

#[test]
fn each_score_falls_for_its_own_reason() {
    let asked = caption("a white circle moves right over a blue background");
    let scene = Scene::with_caption(asked, 2);
    let good = render(&scene, FRAMES, SIDE, SIDE);
    let best = Scores::of(asked, &good);
    let score = |order: &[(&Clip, usize)]| Scores::of(asked, &montage(order));

    let jerky = [0, 4, 1, 5, 2, 6, 3, 8, 7].map(|t| (&good, t));
    assert!(score(&jerky).motion_smoothness < Some(0.5));
    assert!(score(&jerky).frame_smoothness < best.frame_smoothness);

    let frozen = [(&good, 0); FRAMES];
    assert!(score(&frozen).dynamic_degree < Some(0.01));
    assert!(!score(&frozen).direction);

    let mut other = scene;
    other.caption.shape = Shape::Cross;
    other.caption.color = Color::Red;
    let other = render(&other, FRAMES, SIDE, SIDE);
    let changing: Vec<_> = (0..FRAMES).map(|t| ([&good, &other][t % 2], t)).collect();
    assert!(score(&changing).subject_consistency < Some(0.85), "{:?}", score(&changing));

    let flicker =
        changed(&good, |i, byte| f64::from(byte) + [0.0, 20.0][i / (SIDE * SIDE * 3) % 2]);
    let scores = Scores::of(asked, &flicker);
    let expected = 1.0 - 20.0 / 255.0;
    assert!(scores.background_consistency.is_some_and(|score| (score - expected).abs() < 1e-3));
}

#[test]
fn a_slanting_or_vanishing_object_has_no_motion_word() {
    let asked = caption("a white circle moves right over a blue background");
    let scene = Scene { caption: asked, start: [0.3, 0.3], size: 0.25 };
    let slanted: Vec<_> = (0..FRAMES)
        .map(|t| {
            let y = 0.3 + 0.3 * t as f64 / 8.0;
            render(&Scene { start: [0.3, y], ..scene }, FRAMES, SIDE, SIDE)
        })
        .collect();
    let frames: Vec<_> = slanted.iter().enumerate().map(|(t, clip)| (clip, t)).collect();
    let seen = read(&montage(&frames));
    assert_eq!((seen.shape, seen.motion), (Some(Shape::Circle), None));

    let good = render(&scene, FRAMES, SIDE, SIDE);
    let empty = Clip::new(1, SIDE, SIDE, good.frame(0)[..SIDE * 3].repeat(SIDE)).expect("a clip");
    let gone: Vec<_> = (0..FRAMES).map(|t| if t < 4 { (&good, t) } else { (&empty, 0) }).collect();
    let seen = read(&montage(&gone));
    assert_eq!((seen.shape, seen.motion), (None, None));
    assert!(seen.track[3].is_some() && seen.track[4].is_none());
}
