from .lightning import LightningSink as LightningSink
from .mlflow import MLflowSink as MLflowSink
from .sink import Sink as Sink
from .tensorboard import TensorBoardSink as TensorBoardSink
from .wandb_like import WandbLikeSink as WandbLikeSink
