"""BibTeX of what a run used, and so should be cited beside it.

Steps, repairs, allocations and scores say whom to cite. Knows nothing about pages.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.scores import SCORES
from analysis.versions import version_of
from slicing.studies.recipe import Recipe
from slicing.studies.results import Request

ENTRIES = {
    "jamieson2016halving": """@inproceedings{jamieson2016halving,
  title     = {Non-stochastic Best Arm Identification and Hyperparameter Optimization},
  author    = {Jamieson, Kevin and Talwalkar, Ameet},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year      = {2016},
  eprint    = {1502.07943},
  archiveprefix = {arXiv}
}""",
    "wagner2025freelunch": """@misc{wagner2025freelunch,
  title     = {A Free Lunch in {LLM} Compression: Revisiting Retraining after Pruning},
  author    = {Wagner, Moritz and Roux, Christophe and Zimmer, Max and Pokutta, Sebastian},
  year      = {2025},
  eprint    = {2510.14444},
  archiveprefix = {arXiv}
}""",
    "muralidharan2024minitron": """@inproceedings{muralidharan2024minitron,
  title     = {Compact Language Models via Pruning and Knowledge Distillation},
  author    = {Muralidharan, Saurav and Sreenivas, Sharath Turuvekere and Joshi, Raviraj and
               Chochowski, Marcin and Patwary, Mostofa and Shoeybi, Mohammad and Catanzaro, Bryan and
               Kautz, Jan and Molchanov, Pavlo},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  eprint    = {2407.14679},
  archiveprefix = {arXiv}
}""",
    "kurtic2023ziplm": """@inproceedings{kurtic2023ziplm,
  title     = {{ZipLM}: Inference-Aware Structured Pruning of Language Models},
  author    = {Kurtic, Eldar and Frantar, Elias and Alistarh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  eprint    = {2302.04089},
  archiveprefix = {arXiv}
}""",
    "sun2024wanda": """@inproceedings{sun2024wanda,
  title     = {A Simple and Effective Pruning Approach for Large Language Models},
  author    = {Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  eprint    = {2306.11695},
  archiveprefix = {arXiv}
}""",
    "hu2025fasp": """@misc{hu2025fasp,
  title     = {{FASP}: Fast and Accurate Structured Pruning of Large Language Models},
  author    = {Hu, Hanyu and Zhao, Pengxiang and Li, Ping and Zheng, Yi and Wang, Zhefeng and Yuan, Xiaoming},
  year      = {2025},
  eprint    = {2501.09412},
  archiveprefix = {arXiv}
}""",
    "ma2023llmpruner": """@inproceedings{ma2023llmpruner,
  title     = {{LLM-Pruner}: On the Structural Pruning of Large Language Models},
  author    = {Ma, Xinyin and Fang, Gongfan and Wang, Xinchao},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023},
  eprint    = {2305.11627},
  archiveprefix = {arXiv}
}""",
    "sandri2025twossp": """@article{sandri2025twossp,
  title     = {{2SSP}: A Two-Stage Framework for Structured Pruning of {LLMs}},
  author    = {Sandri, Fabrizio and Cunegatti, Elia and Iacca, Giovanni},
  journal   = {Transactions on Machine Learning Research},
  year      = {2025},
  eprint    = {2501.17771},
  archiveprefix = {arXiv}
}""",
    "zhong2025blockpruner": """@inproceedings{zhong2025blockpruner,
  title     = {{BlockPruner}: Fine-grained Pruning for Large Language Models},
  author    = {Zhong, Longguang and Wan, Fanqi and Chen, Ruijun and Quan, Xiaojun and Li, Liangzhi},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
  year      = {2025},
  eprint    = {2406.10594},
  archiveprefix = {arXiv}
}""",
    "kwon2022fast": """@inproceedings{kwon2022fast,
  title     = {A Fast Post-Training Pruning Framework for Transformers},
  author    = {Kwon, Woosuk and Kim, Sehoon and Mahoney, Michael W. and Hassoun, Joseph and Keutzer, Kurt and
               Gholami, Amir},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  eprint    = {2204.09656},
  archiveprefix = {arXiv}
}""",
    "verma2025dotresize": """@misc{verma2025dotresize,
  title     = {{DotResize}: Reducing {LLM} Width via Discrete Optimal Transport-based Neuron Merging},
  author    = {Verma, Neha and Murray, Kenton and Duh, Kevin},
  year      = {2025},
  eprint    = {2507.04517},
  archiveprefix = {arXiv}
}""",
    "sengupta2025prunenet": """@inproceedings{sengupta2025prunenet,
  title     = {You Only Prune Once: Designing Calibration-Free Model Compression With Policy Learning},
  author    = {Sengupta, Ayan and Chaudhary, Siddhant and Chakraborty, Tanmoy},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  eprint    = {2501.15296},
  archiveprefix = {arXiv}
}""",
    "dumitru2024change": """@inproceedings{dumitru2024change,
  title     = {Change Is the Only Constant: Dynamic {LLM} Slicing based on Layer Redundancy},
  author    = {Dumitru, Razvan-Gabriel and Clotan, Paul-Ioan and Yadav, Vikas and Peteleaza, Darius and
               Surdeanu, Mihai},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2024},
  year      = {2024},
  eprint    = {2411.03513},
  archiveprefix = {arXiv}
}""",
    "ashkboos2024slicegpt": """@inproceedings{ashkboos2024slicegpt,
  title     = {{SliceGPT}: Compress Large Language Models by Deleting Rows and Columns},
  author    = {Ashkboos, Saleh and Croci, Maximilian L. and do Nascimento, Marcelo Gennari and
               Hoefler, Torsten and Hensman, James},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  eprint    = {2401.15024},
  archiveprefix = {arXiv}
}""",
    "men2025shortgpt": """@inproceedings{men2025shortgpt,
  title     = {{ShortGPT}: Layers in Large Language Models are More Redundant Than You Expect},
  author    = {Men, Xin and Xu, Mingyu and Zhang, Qingyu and Wang, Bingning and Lin, Hongyu and Lu, Yaojie and
               Han, Xianpei and Chen, Weipeng},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
  year      = {2025},
  eprint    = {2403.03853},
  archiveprefix = {arXiv}
}""",
    "gromov2025unreasonable": """@inproceedings{gromov2025unreasonable,
  title     = {The Unreasonable Ineffectiveness of the Deeper Layers},
  author    = {Gromov, Andrey and Tirumala, Kushal and Shapourian, Hassan and Glorioso, Paolo and
               Roberts, Daniel A.},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  eprint    = {2403.17887},
  archiveprefix = {arXiv}
}""",
    "lin2025modegpt": """@inproceedings{lin2025modegpt,
  title     = {{MoDeGPT}: Modular Decomposition for Large Language Model Compression},
  author    = {Lin, Chi-Heng and Gao, Shangqian and Smith, James Seale and Patel, Abhishek and Tuli, Shikhar
               and Shen, Yilin and Jin, Hongxia and Hsu, Yen-Chang},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  eprint    = {2408.09632},
  archiveprefix = {arXiv}
}""",
    "lu2024alphapruning": """@inproceedings{lu2024alphapruning,
  title     = {{AlphaPruning}: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning
               of Large Language Models},
  author    = {Lu, Haiquan and Zhou, Yefan and Liu, Shiwei and Wang, Zhangyang and Mahoney, Michael W. and
               Yang, Yaoqing},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  eprint    = {2410.10912},
  archiveprefix = {arXiv}
}""",
    "huang2025determining": """@inproceedings{huang2025determining,
  title     = {Determining Layer-wise Sparsity for Large Language Models Through a Theoretical Perspective},
  author    = {Huang, Weizhong and Zhang, Yuxin and Zheng, Xiawu and Chao, Fei and Ji, Rongrong},
  booktitle = {International Conference on Machine Learning},
  year      = {2025},
  eprint    = {2502.14770},
  archiveprefix = {arXiv}
}""",
    "song2024sleb": """@inproceedings{song2024sleb,
  title     = {{SLEB}: Streamlining {LLMs} through Redundancy Verification and Elimination of Transformer
               Blocks},
  author    = {Song, Jiwon and Oh, Kyungseok and Kim, Taesu and Kim, Hyungjun and Kim, Yulhwa and
               Kim, Jae-Joon},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  eprint    = {2402.09025},
  archiveprefix = {arXiv}
}""",
    "yang2024laco": """@inproceedings{yang2024laco,
  title     = {{LaCo}: Large Language Model Pruning via Layer Collapse},
  author    = {Yang, Yifei and Cao, Zouying and Zhao, Hai},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2024},
  year      = {2024},
  eprint    = {2402.11187},
  archiveprefix = {arXiv}
}""",
    "ding2026sliding": """@inproceedings{ding2026sliding,
  title     = {A Sliding Layer Merging Method for Efficient Depth-Wise Pruning in {LLMs}},
  author    = {Ding, Xuan and others},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2026},
  eprint    = {2502.19159},
  archiveprefix = {arXiv}
}""",
    "chen2025streamlining": """@inproceedings{chen2025streamlining,
  title     = {Streamlining Redundant Layers to Compress Large Language Models},
  author    = {Chen, Xiaodong and Hu, Yuxuan and Zhang, Jing and Wang, Yanling and Li, Cuiping and
               Chen, Hong},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  eprint    = {2403.19135},
  archiveprefix = {arXiv}
}""",
    "yuan2025lift": """@inproceedings{yuan2025lift,
  title     = {Why Lift so Heavy? Slimming Large Language Models by Cutting Off the Layers},
  author    = {Yuan, Shuzhou and Nie, Ercong and Ma, Bolei and F{\\"a}rber, Michael},
  booktitle = {International Joint Conference on Neural Networks},
  year      = {2025},
  eprint    = {2402.11700},
  archiveprefix = {arXiv}
}""",
    "shopkhoev2025replaceme": """@article{shopkhoev2025replaceme,
  title   = {{ReplaceMe}: Network Simplification via Depth Pruning and Transformer Block Linearization},
  author  = {Shopkhoev, Dmitriy and others},
  year    = {2025},
  eprint  = {2505.02819},
  archiveprefix = {arXiv}
}""",
    "rethinking2026relevance": """@inproceedings{rethinking2026relevance,
  title     = {Rethinking Layer Relevance in Large Language Models Beyond Cosine Similarity},
  booktitle = {International Conference on Learning Representations},
  year      = {2026},
  eprint    = {2605.14075},
  archiveprefix = {arXiv},
  note      = {Authors: see arXiv}
}""",
}


def citations(request: Request) -> tuple[str, ...]:
    """Find what a request used, each once: keys of ``ENTRIES``, and whole entries of those that have none."""
    if request.kind == "profile":
        probed = set(request.probes)
        cites = [each.cite for name, each in SCORES.items() if each.measure or name in probed]
        cites += ["kurtic2023ziplm"] if request.units else []
    elif request.kind == "shrink":
        cites = ["jamieson2016halving"]
    else:
        cites = [cite for recipe in request.recipes_used() for cite in recipe.cites]
    return tuple(dict.fromkeys(each for each in cites if each))


def bibtex(request: Request, found: Sequence[Recipe] = ()) -> str:
    """Write the entries of what a request used, and of recipes that it ``found``, and slicescope's own."""
    cites = dict.fromkeys((*citations(request), *(cite for recipe in found for cite in recipe.cites)))
    used = (each if each.startswith("@") else ENTRIES[each] for each in cites)
    return "\n\n".join([*used, _own()])


def _own() -> str:
    version = version_of("slicescope")
    return (
        "@software{slicescope,\n  title   = {slicescope: where a language model is redundant, and what "
        f"cutting there costs}},\n  author  = {{{{The slicescope authors}}}},\n  version = {{{version}}}\n}}"
    )
