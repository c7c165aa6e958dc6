"use strict";
/* The network of the page: 3x3 convolutions, batch normalization and ReLU, mean pooling, a linear
   layer. Values lie as [images, channels, height, width], as in PyTorch; tests compare the two. */

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const floatsOf = (base64) => new Float32Array(bytesOf(base64).buffer);

/** The test images that the page carries, and what the network is given of each. */
class Images {
  constructor({ pixels, side, colours, labels, mean, std }) {
    Object.assign(this, { side, colours, labels, count: labels.length, pixels: bytesOf(pixels) });
    this.scale = std.map((value) => 1 / (255 * value));
    this.shift = mean.map((value, channel) => -value / std[channel]);
  }

  /** Normalized values of some images, [ids, colours, side, side]. */
  batch(ids) {
    const { side, colours, pixels } = this;
    const area = side * side;
    const values = new Float32Array(ids.length * colours * area);
    ids.forEach((id, image) => {
      for (let pixel = 0; pixel < area; pixel += 1) {
        for (let colour = 0; colour < colours; colour += 1) {
          const byte = pixels[(id * area + pixel) * colours + colour];
          values[(image * colours + colour) * area + pixel] =
            byte * this.scale[colour] + this.shift[colour];
        }
      }
    });
    return { values, images: ids.length, channels: colours, height: side, width: side };
  }
}

/** A 3x3 convolution with a border of zeros. */
function convolve(x, { weight, outputs, stride }) {
  const { images, channels, height, width } = x;
  const [rows, columns] = [Math.ceil(height / stride), Math.ceil(width / stride)];
  const values = new Float32Array(images * outputs * rows * columns);
  for (let image = 0; image < images; image += 1) {
    for (let output = 0; output < outputs; output += 1) {
      const to = (image * outputs + output) * rows * columns;
      for (let row = 0; row < rows; row += 1) {
        for (let column = 0; column < columns; column += 1) {
          let sum = 0;
          for (let channel = 0; channel < channels; channel += 1) {
            const from = (image * channels + channel) * height * width;
            const kernel = (output * channels + channel) * 9;
            for (let a = 0; a < 3; a += 1) {
              const y = row * stride + a - 1;
              if (y < 0 || y >= height) continue;
              for (let b = 0; b < 3; b += 1) {
                const z = column * stride + b - 1;
                if (z < 0 || z >= width) continue;
                sum += weight[kernel + a * 3 + b] * x.values[from + y * width + z];
              }
            }
          }
          values[to + row * columns + column] = sum;
        }
      }
    }
  }
  return { values, images, channels: outputs, height: rows, width: columns };
}

/** Calls `visit(index)` for every value of one channel. */
function eachOf({ images, channels, height, width }, channel, visit) {
  const area = height * width;
  for (let image = 0; image < images; image += 1) {
    const start = (image * channels + channel) * area;
    for (let index = start; index < start + area; index += 1) visit(index);
  }
}

/** Mean and biased variance of one channel over all images and positions, and their number. */
function momentsOf(x, channel) {
  const count = x.images * x.height * x.width;
  let mean = 0;
  eachOf(x, channel, (index) => { mean += x.values[index]; });
  mean /= count;
  let variance = 0;
  eachOf(x, channel, (index) => { variance += (x.values[index] - mean) ** 2; });
  return { mean, variance: variance / count, count };
}

/** Batch normalization, with what it remembers. */
class BatchNorm {
  constructor({ weight, bias, mean, variance, eps }) {
    this.trained = {
      weight: floatsOf(weight), bias: floatsOf(bias), mean: floatsOf(mean),
      variance: floatsOf(variance), eps,
    };
    this.restore();
  }

  /** Puts back what training left. */
  restore() {
    const { weight, bias, mean, variance, eps } = this.trained;
    Object.assign(this, {
      weight: weight.slice(), bias: bias.slice(), mean: mean.slice(), variance: variance.slice(),
      eps,
    });
  }

  /** Running statistics of a new layer. */
  forget() {
    this.mean.fill(0);
    this.variance.fill(1);
  }

  /** One update of a channel's running statistics; the variance enters unbiased. */
  remember(channel, moments, momentum, round) {
    const unbiased = (moments.variance * moments.count) / (moments.count - 1);
    this.mean[channel] = round((1 - momentum) * this.mean[channel] + momentum * moments.mean);
    this.variance[channel] =
      round((1 - momentum) * this.variance[channel] + momentum * unbiased);
  }

  /** Normalizes in place; returns the moments of the batch, by channel. */
  apply(x, { training, momentum, round }) {
    return Array.from({ length: x.channels }, (_, channel) => {
      const moments = momentsOf(x, channel);
      const [mean, variance] = training
        ? [moments.mean, moments.variance] : [this.mean[channel], this.variance[channel]];
      const factor = this.weight[channel] / Math.sqrt(variance + this.eps);
      const bias = this.bias[channel];
      eachOf(x, channel, (index) => { x.values[index] = (x.values[index] - mean) * factor + bias; });
      if (training && momentum) this.remember(channel, moments, momentum, round);
      return moments;
    });
  }
}

const exact = (value) => value;

/** The nearest number that bfloat16 holds. */
const toBfloat16 = (() => {
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  return (value) => {
    float[0] = value;
    bits[0] = (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) & 0xffff0000;
    return float[0];
  };
})();

class Network {
  constructor({ layers, classifier }) {
    this.convolutions = layers.map(({ convolution }) => ({
      ...convolution, weight: floatsOf(convolution.weight),
    }));
    this.norms = layers.map(({ norm }) => new BatchNorm(norm));
    this.classifier = { weight: floatsOf(classifier.weight), bias: floatsOf(classifier.bias) };
  }

  restore() { this.norms.forEach((norm) => norm.restore()); }

  forget() { this.norms.forEach((norm) => norm.forget()); }

  /**
   * Probabilities for every image, [images][classes], and what went through the first layer.
   * training: normalize by the batch; momentum: also update the running statistics;
   * round: how these are stored.
   */
  forward(batch, { training = false, momentum = 0, round = exact } = {}) {
    let x = batch;
    let first = null;
    this.convolutions.forEach((convolution, index) => {
      x = convolve(x, convolution);
      const input = index === 0 ? x.values.slice() : null;
      const moments = this.norms[index].apply(x, { training, momentum, round });
      if (index === 0) first = { ...x, input, output: x.values.slice(), moments };
      for (let value = 0; value < x.values.length; value += 1) {
        if (x.values[value] < 0) x.values[value] = 0;
      }
    });
    return { probabilities: this.classify(x), first };
  }

  classify({ values, images, channels, height, width }) {
    const { weight, bias } = this.classifier;
    const area = height * width;
    return Array.from({ length: images }, (_, image) => {
      const pooled = Array.from({ length: channels }, (__, channel) => {
        let sum = 0;
        const start = (image * channels + channel) * area;
        for (let index = start; index < start + area; index += 1) sum += values[index];
        return sum / area;
      });
      const logits = Array.from(bias, (value, label) => pooled.reduce(
        (sum, feature, channel) => sum + weight[label * channels + channel] * feature, value,
      ));
      return softmax(logits);
    });
  }
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - largest));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}

const likeliest = (probabilities) => probabilities.indexOf(Math.max(...probabilities));

/** Batches of these images, in this order; the last one may be smaller. */
function* inBatches(ids, size) {
  for (let start = 0; start < ids.length; start += size) yield ids.slice(start, start + size);
}

/** Share of the images that are classified right, in batches of this size. */
function accuracyOf(network, images, ids, size, options) {
  let right = 0;
  for (const batch of inBatches(ids, size)) {
    network.forward(images.batch(batch), options).probabilities.forEach((probabilities, index) => {
      right += likeliest(probabilities) === images.labels[batch[index]];
    });
  }
  return right / ids.length;
}

/** Numbers in [0, 1) that are the same at every visit (mulberry32). */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(values, random) {
  const result = [...values];
  for (let last = result.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [result[last], result[other]] = [result[other], result[last]];
  }
  return result;
}
