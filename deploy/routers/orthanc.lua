-- Orthanc sends every series to Diptych once it is complete. For Orthanc 1.10 (Debian 12); Diptych's
-- tests run this file in it. What orthanc.json needs stands in orthanc.json beside this file.

function OnStableSeries(seriesId, tags, metadata, origin)
   -- Not permissive: when one instance is not taken the job fails as a whole, and orthanc-resubmit
   -- finds it. What Diptych has already it takes again, and that is no duplicate.
   RestApiPost('/modalities/diptych/store', DumpJson({
      Resources = { seriesId },
      Asynchronous = true,
      Permissive = false
   }, true))
end
