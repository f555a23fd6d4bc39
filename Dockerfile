# An image to train and restore with:
#
#     docker build --build-arg VARIANT=tpu --tag IMAGE .
#     docker run --shm-size=4g IMAGE python train.py --config=configs/demo.py:vqgan --workdir=gs://BUCKET/run
#     docker run IMAGE codeformer-jax doctor
#
# VARIANT is the device that JAX is installed for: cpu, tpu or cuda. CUDA comes with JAX's packages; the
# host has the driver and NVIDIA's container toolkit. EXTRAS are those of pyproject.toml, for buckets.
# RUN_AS is the user: 0 where the device files of an accelerator belong to root.
FROM python:3.12-slim-bookworm

ARG VARIANT=cpu
ARG EXTRAS=gcs
ARG RUN_AS=1000

# The first process of a container ignores signals that it does not handle; tini does not.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 trainer

WORKDIR /app

# A layer of packages, which a change of the code does not build again.
COPY pyproject.toml constraints.txt LICENSE README.md ./
RUN case "$VARIANT" in \
        cpu) extras="$EXTRAS" ;; \
        tpu|cuda) extras="$EXTRAS,$VARIANT" ;; \
        *) echo "VARIANT=$VARIANT; expected cpu, tpu or cuda" >&2; exit 1 ;; \
    esac \
    && mkdir codeformer_jax && touch codeformer_jax/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt pip setuptools \
    && pip install --no-cache-dir --constraint constraints.txt --no-build-isolation --editable ".[$extras]"

COPY codeformer_jax ./codeformer_jax
COPY configs ./configs
COPY train.py eval.py ./

ENV PYTHONUNBUFFERED=1
USER $RUN_AS
ENTRYPOINT ["tini", "--"]
CMD ["python", "train.py", "--help"]
