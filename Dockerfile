# The service as an image, for `docker build` and `buildah build --format docker`. How it is run: specs/deploying.md.
# Any image with Python 3.11 or newer will do as the base. In production name one by its digest.
ARG BASE=docker.io/library/python:3.13-slim

FROM $BASE AS build
# Where wheels come from, if not from PyPI. An ARG leaves nothing in the image.
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /app
WORKDIR /build
COPY requirements-runtime.lock ./
RUN /app/bin/python -m pip install --no-deps --only-binary :all: --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY backend backend
RUN /app/bin/python -m pip install --no-deps --no-build-isolation . \
    && /app/bin/python -m pip uninstall --yes flit_core pip

FROM $BASE
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 ENVIRONMENT=production
WORKDIR /app
# By number, so that Kubernetes sees that it is not root. Any other user will do: nothing is written, nothing is owned.
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["todo-backend", "health"]
ENTRYPOINT ["todo-backend"]
CMD ["serve"]
