use qvgen::kernels::device::OpenDevice;
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::model::VideoModel;
use qvgen::train::TrainError;
use qvgen::train::pretrain::{PretrainEvent, PretrainSettings, Pretraining};

#[test]
fn a_model_is_made_from_nothing_and_the_autoencoder_is_not_made_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("pocket");
    let settings = PretrainSettings {
        autoencoder_steps: 3,
        autoencoder_batch: 2,
        clips: 3,
        steps: 4,
        batch: 2,
        ..PretrainSettings::new(out.clone())
    };
    let device = OpenDevice::cpu();
    let run = |stop_in_denoiser: bool| {
        let cancel = Cancel::new();
        let (mut autoencoder, mut denoiser) = (0, 0);
        let mut report = |event: PretrainEvent<'_>| match event {
            PretrainEvent::Autoencoder(..) => autoencoder += 1,
            PretrainEvent::Latents(..) => {}
            PretrainEvent::Denoiser(..) => {
                denoiser += 1;
                if stop_in_denoiser {
                    cancel.cancel();
                }
            }
        };
        let (settings, cancel) = (settings.clone(), cancel.clone());
        let result = Pretraining { settings, device: &device, cancel, report: &mut report }.run();
        (result, autoencoder, denoiser)
    };
    let (stopped, autoencoder, denoiser) = run(true);
    assert!(matches!(stopped, Err(TrainError::Pipeline(_))), "{stopped:?}");
    assert_eq!((autoencoder, denoiser), (3, 1));
    assert!(!out.exists(), "nothing half made");
    let (finished, autoencoder, denoiser) = run(false);
    finished.expect("a model");
    assert_eq!((autoencoder, denoiser), (0, 4));
    let model = VideoModel::open(&out).expect("a model folder");
    model.check_files().expect("complete files");
    assert_eq!(model.text_tokens, 16);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(left.len(), 1, "nothing but the model is left: {left:?}");
}
