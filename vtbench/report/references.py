"""BibTeX of the metrics and data sets that tables name. Models bring their own in their cards."""

from __future__ import annotations

from collections.abc import Iterable

METRICS = {
    "fid": "heusel2017gans",
    "sfid": "nash2021generating",
    "inception_score": "salimans2016improved",
    "kid": "binkowski2018demystifying",
    "precision": "kynkaanniemi2019improved",
    "recall": "kynkaanniemi2019improved",
    "density": "naeem2020reliable",
    "coverage": "naeem2020reliable",
    "fd_dinov2": "stein2023exposing",
    "cmmd": "jayasumana2024rethinking",
    "ssim": "wang2004image",
    "ms_ssim": "wang2003multiscale",
    "lpips": "zhang2018unreasonable",
    "dists": "ding2020image",
    "clip_score": "hessel2021clipscore",
    "t_acc": "wu2025tokbench",
    "t_ned": "wu2025tokbench",
    "f_sim": "wu2025tokbench",
    **dict.fromkeys(("geneval", "geneval_images", "geneval_prompts"), "ghosh2023geneval"),
    "dpg_bench": "hu2024ella",
}
DATASETS = {
    "imagenet-val": "deng2009imagenet",
    "imagenet-train": "deng2009imagenet",
    "coco-2017-5k": "lin2014microsoft",
    "tokbench": "wu2025tokbench",
}
PROTOCOLS = {"clean": "parmar2022aliased", "adm": "dhariwal2021diffusion", "torch-fidelity": "obukhov2020torchfidelity"}

ENTRIES = {
    "heusel2017gans": """@inproceedings{heusel2017gans,
  title={{GANs} Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium},
  author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
  booktitle={Advances in Neural Information Processing Systems}, year={2017}}""",
    "nash2021generating": """@inproceedings{nash2021generating,
  title={Generating Images with Sparse Representations},
  author={Nash, Charlie and Menick, Jacob and Dieleman, Sander and Battaglia, Peter W.},
  booktitle={International Conference on Machine Learning}, year={2021}}""",
    "salimans2016improved": """@inproceedings{salimans2016improved,
  title={Improved Techniques for Training {GANs}},
  author={Salimans, Tim and Goodfellow, Ian and Zaremba, Wojciech and Cheung, Vicki and Radford, Alec and Chen, Xi},
  booktitle={Advances in Neural Information Processing Systems}, year={2016}}""",
    "binkowski2018demystifying": """@inproceedings{binkowski2018demystifying,
  title={Demystifying {MMD} {GANs}},
  author={Bi{\\'n}kowski, Miko{\\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
  booktitle={International Conference on Learning Representations}, year={2018}}""",
    "kynkaanniemi2019improved": """@inproceedings{kynkaanniemi2019improved,
  title={Improved Precision and Recall Metric for Assessing Generative Models},
  author={Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo},
  booktitle={Advances in Neural Information Processing Systems}, year={2019}}""",
    "naeem2020reliable": """@inproceedings{naeem2020reliable,
  title={Reliable Fidelity and Diversity Metrics for Generative Models},
  author={Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun},
  booktitle={International Conference on Machine Learning}, year={2020}}""",
    "stein2023exposing": """@inproceedings{stein2023exposing,
  title={Exposing Flaws of Generative Model Evaluation Metrics and Their Unfair Treatment of Diffusion Models},
  author={Stein, George and Cresswell, Jesse C. and Hosseinzadeh, Rasa and others},
  booktitle={Advances in Neural Information Processing Systems}, year={2023}}""",
    "jayasumana2024rethinking": """@inproceedings{jayasumana2024rethinking,
  title={Rethinking {FID}: Towards a Better Evaluation Metric for Image Generation},
  author={Jayasumana, Sadeep and Ramalingam, Srikumar and Veit, Andreas and Glasner, Daniel and Chakrabarti, Ayan and Kumar, Sanjiv},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition}, year={2024}}""",
    "wang2004image": """@article{wang2004image,
  title={Image Quality Assessment: From Error Visibility to Structural Similarity},
  author={Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.},
  journal={IEEE Transactions on Image Processing}, volume={13}, number={4}, pages={600--612}, year={2004}}""",
    "wang2003multiscale": """@inproceedings{wang2003multiscale,
  title={Multiscale Structural Similarity for Image Quality Assessment},
  author={Wang, Zhou and Simoncelli, Eero P. and Bovik, Alan C.},
  booktitle={Asilomar Conference on Signals, Systems and Computers}, year={2003}}""",
    "zhang2018unreasonable": """@inproceedings{zhang2018unreasonable,
  title={The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
  author={Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition}, year={2018}}""",
    "ding2020image": """@article{ding2020image,
  title={Image Quality Assessment: Unifying Structure and Texture Similarity},
  author={Ding, Keyan and Ma, Kede and Wang, Shiqi and Simoncelli, Eero P.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence}, year={2020}}""",
    "hessel2021clipscore": """@inproceedings{hessel2021clipscore,
  title={{CLIPScore}: A Reference-free Evaluation Metric for Image Captioning},
  author={Hessel, Jack and Holtzman, Ari and Forbes, Maxwell and Le Bras, Ronan and Choi, Yejin},
  booktitle={Conference on Empirical Methods in Natural Language Processing}, year={2021}}""",
    "wu2025tokbench": """@article{wu2025tokbench,
  title={{TokBench}: Evaluating Your Visual Tokenizer before Visual Generation},
  author={Wu, Junfeng and others},
  journal={arXiv preprint}, year={2025}}""",
    "hu2024ella": """@article{hu2024ella,
  title={{ELLA}: Equip Diffusion Models with {LLM} for Enhanced Semantic Alignment},
  author={Hu, Xiwei and Wang, Rui and Fang, Yixiao and Fu, Bin and Cheng, Pei and Yu, Gang},
  journal={arXiv preprint arXiv:2403.05135}, year={2024}}""",
    "ghosh2023geneval": """@inproceedings{ghosh2023geneval,
  title={{GenEval}: An Object-Focused Framework for Evaluating Text-to-Image Alignment},
  author={Ghosh, Dhruba and Hajishirzi, Hannaneh and Schmidt, Ludwig},
  booktitle={Advances in Neural Information Processing Systems}, year={2023}}""",
    "deng2009imagenet": """@inproceedings{deng2009imagenet,
  title={{ImageNet}: A Large-Scale Hierarchical Image Database},
  author={Deng, Jia and Dong, Wei and Socher, Richard and Li, Li-Jia and Li, Kai and Fei-Fei, Li},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition}, year={2009}}""",
    "lin2014microsoft": """@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common Objects in Context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle={European Conference on Computer Vision}, year={2014}}""",
    "parmar2022aliased": """@inproceedings{parmar2022aliased,
  title={On Aliased Resizing and Surprising Subtleties in {GAN} Evaluation},
  author={Parmar, Gaurav and Zhang, Richard and Zhu, Jun-Yan},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition}, year={2022}}""",
    "dhariwal2021diffusion": """@inproceedings{dhariwal2021diffusion,
  title={Diffusion Models Beat {GANs} on Image Synthesis},
  author={Dhariwal, Prafulla and Nichol, Alexander},
  booktitle={Advances in Neural Information Processing Systems}, year={2021}}""",
    "obukhov2020torchfidelity": """@misc{obukhov2020torchfidelity,
  title={High-fidelity Performance Metrics for Generative Models in {PyTorch}},
  author={Obukhov, Anton and Seitzer, Maximilian and Wu, Po-Wei and Zhydenko, Semen and Kyl, Jonathan and Lin, Elvis Yu-Jing},
  year={2020}}""",
}


def bibtex(
    metrics: Iterable[str], datasets: Iterable[str], protocols: Iterable[str], cards: Iterable[str]
) -> tuple[str, list[str]]:
    """BibTeX for what a table names, each entry once, and the names that have none."""
    texts: dict[str, None] = {}
    lost = []
    for known, names in ((METRICS, metrics), (DATASETS, datasets), (PROTOCOLS, protocols)):
        for name in dict.fromkeys(names):
            if name.split("+")[0] in known:
                texts[ENTRIES[known[name.split("+")[0]]]] = None
            elif known is DATASETS:
                lost.append(name)
    for text in cards:
        if text.strip():
            texts[text.strip()] = None
    return "\n\n".join(texts), lost
